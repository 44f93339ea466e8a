//! Who may connect: proof on both sides that they know a secret of the cluster, before anything else is said.
//!
//! The side that connects draws a nonce and names its secret; the other answers with a nonce of its own and a proof over
//! both; then comes the proof of the first. Both cover the whole hello, so that nobody can speak for another node. A secret
//! never travels, and a proof serves for one connection. Without TLS the frames behind it are neither hidden nor signed.
//!
//! What must hold: with a secret, nothing is served and nothing is believed before the other side has proved itself; without
//! one, nothing is different on the wire or in cost.

use std::fmt;
use std::sync::Arc;

use catena_types::{Code, Failure};
use catena_wire::header::Kind;
use catena_wire::hello::{Challenge, Hello, Proof};
use prost::Message;
use ring::hmac;

use crate::handshake::handshake_frame;
use crate::{Frame, FrameReceiver, FrameSender, NetError};

/// Least length of a secret in bytes: 128 bits in hexadecimal.
pub const LEAST_SECRET: usize = 32;
/// Bytes of a nonce.
const NONCE: usize = 32;
/// Bytes of a secret's name.
const ID: usize = 8;

/// What a proof says, so that one side's cannot serve as the other's.
const ACCEPTING: &[u8] = b"catena: I accept connections\0";
const CONNECTING: &[u8] = b"catena: I connect\0";
const NAME: &[u8] = b"catena: name of a secret\0";

/// How a process secures its connections. The default is: not at all.
#[derive(Clone, Default)]
pub struct Security {
    secrets: Option<Arc<Secrets>>,
}

struct Secrets {
    /// The first one is this process's own.
    members: Vec<Secret>,
    /// Those of clients, which may do less.
    clients: Vec<Secret>,
}

struct Secret {
    key: hmac::Key,
    id: [u8; ID],
}

impl Secret {
    fn new(text: &str) -> Secret {
        let key = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
        let mut id = [0; ID];
        id.copy_from_slice(&hmac::sign(&key, NAME).as_ref()[..ID]);
        Secret { key, id }
    }

    fn prove(&self, side: &[u8], nonce: &[u8], hello: &[u8]) -> Vec<u8> {
        hmac::sign(&self.key, &[side, nonce, hello].concat()).as_ref().to_vec()
    }

    fn holds(&self, side: &[u8], nonce: &[u8], hello: &[u8], proof: &[u8]) -> bool {
        hmac::verify(&self.key, &[side, nonce, hello].concat(), proof).is_ok()
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Security {{ secrets: {} }}", self.secrets.is_some())
    }
}

impl Security {
    /// Connects with the first of `members`, and accepts whoever has one of `members` or, as a client, one of `clients`.
    ///
    /// # Errors
    /// There is no secret of members, one is too short, or one is in both lists; the text says which.
    pub fn with_secrets(members: &[String], clients: &[String]) -> Result<Security, String> {
        if members.is_empty() {
            return Err("there is no secret; make one with `openssl rand -hex 32`".to_owned());
        }
        if members.iter().chain(clients).any(|s| s.len() < LEAST_SECRET) {
            return Err(format!("a secret has less than {LEAST_SECRET} characters; make one with `openssl rand -hex 32`"));
        }
        if clients.iter().any(|c| members.contains(c)) {
            return Err("a secret of clients is the cluster's own: make another one".to_owned());
        }
        let secrets = |texts: &[String]| texts.iter().map(|text| Secret::new(text)).collect();
        Ok(Security { secrets: Some(Arc::new(Secrets { members: secrets(members), clients: secrets(clients) })) })
    }

    /// Fills in what this process says of its secret.
    pub(crate) fn introduce(&self, hello: &mut Hello) -> Result<(), NetError> {
        if let Some(own) = self.own() {
            hello.nonce = nonce()?;
            hello.secret_id = own.id.to_vec();
        }
        Ok(())
    }

    fn own(&self) -> Option<&Secret> {
        self.secrets.as_ref().and_then(|s| s.members.first())
    }

    /// The connecting side, when its hello has been sent: the frame that answers the hello in the end.
    pub(crate) async fn convince(
        &self,
        hello: &[u8],
        sender: &FrameSender,
        receiver: &mut FrameReceiver,
    ) -> Result<Frame, NetError> {
        let answer = handshake_frame(receiver).await?;
        let (Some(own), Kind::Challenge) = (self.own(), answer.kind) else { return self.unchallenged(answer, receiver.peer()) };
        let challenge: Challenge = answer.decode()?;
        if challenge.nonce.len() != NONCE || !own.holds(ACCEPTING, &challenge.nonce, hello, &challenge.proof) {
            let peer = receiver.peer();
            return Err(refused(format!("{peer} does not know the secret of this process: it is not of this cluster")));
        }
        let proof = own.prove(CONNECTING, &challenge.nonce, hello);
        sender.send(Frame::new(Kind::Proof, 0, &Proof { proof }))?;
        handshake_frame(receiver).await
    }

    /// An answer to the hello that is no challenge: with a secret it can only be a refusal.
    fn unchallenged(&self, answer: Frame, peer: &str) -> Result<Frame, NetError> {
        if self.secrets.is_some() && answer.kind == Kind::HelloReply {
            let reply: catena_wire::hello::HelloReply = answer.decode()?;
            if reply.failure.is_none() {
                let text = format!("{peer} asked for no secret: start it with --secret-file, or this process without");
                return Err(refused(text));
            }
        }
        Ok(answer)
    }

    /// The accepting side, when a hello has come: whether the other side is a member.
    ///
    /// # Errors
    /// It has no secret, or the wrong one, or the connection broke; a refusal is to be told to it.
    pub(crate) async fn examine(
        &self,
        hello: &Hello,
        body: &[u8],
        sender: &FrameSender,
        receiver: &mut FrameReceiver,
    ) -> Result<bool, NetError> {
        let Some(secrets) = &self.secrets else { return Ok(true) };
        let named = |list: &'_ [Secret]| list.iter().position(|s| s.id[..] == hello.secret_id[..]);
        let (secret, member) = match (named(&secrets.members), named(&secrets.clients)) {
            _ if hello.secret_id.is_empty() => return Err(refused("this cluster wants its secret: give --secret-file")),
            (Some(n), _) => (&secrets.members[n], true),
            (None, Some(n)) => (&secrets.clients[n], false),
            (None, None) => return Err(refused("your secret is not one of this cluster's: compare the files of --secret-file")),
        };
        if hello.nonce.len() != NONCE {
            return Err(refused("a hello with a secret has a nonce of 32 bytes"));
        }
        let nonce = nonce()?;
        let proof = secret.prove(ACCEPTING, &nonce, body);
        sender.send(Frame::new(Kind::Challenge, 0, &Challenge { nonce: nonce.clone(), proof }))?;
        let answer = handshake_frame(receiver).await?;
        if answer.kind != Kind::Proof {
            return Err(NetError::Unexpected { got: answer.kind, expected: "a proof of a secret" });
        }
        if !secret.holds(CONNECTING, &nonce, body, &Proof::decode(answer.body).unwrap_or_default().proof) {
            return Err(refused("the proof of your secret is wrong"));
        }
        Ok(member)
    }
}

/// The refusal of a client that wants what only members may.
pub fn members_only(what: &str) -> Failure {
    Failure::new(Code::NotAuthorized, format!("{what} needs the cluster's own secret, and the one you have is a client's"))
}

fn refused(text: impl Into<String>) -> NetError {
    NetError::Refused(Failure::new(Code::NotAuthorized, text))
}

fn nonce() -> Result<Vec<u8>, NetError> {
    let mut nonce = vec![0; NONCE];
    match getrandom::fill(&mut nonce) {
        Ok(()) => Ok(nonce),
        Err(e) => Err(NetError::Refused(Failure::new(Code::NotAuthorized, format!("no random numbers from the system: {e}")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(n: u8) -> String {
        format!("{n:032}")
    }

    #[test]
    fn bad_secrets_are_refused() {
        let with = |members: &[String], clients: &[String]| Security::with_secrets(members, clients).map(|_| ());
        assert!(with(&[], &[]).unwrap_err().contains("openssl"));
        assert!(with(&["short".into()], &[]).unwrap_err().contains("32"));
        assert!(with(&[secret(1)], &[secret(1)]).unwrap_err().contains("another one"));
        assert_eq!(with(&[secret(1), secret(2)], &[secret(3)]), Ok(()));
    }

    #[test]
    fn a_proof_is_for_one_side_one_nonce_and_one_hello() {
        let (a, b) = (Secret::new(&secret(1)), Secret::new(&secret(2)));
        let proof = a.prove(CONNECTING, b"nonce", b"hello");
        assert!(a.holds(CONNECTING, b"nonce", b"hello", &proof));
        assert!(!a.holds(ACCEPTING, b"nonce", b"hello", &proof));
        assert!(!a.holds(CONNECTING, b"other", b"hello", &proof));
        assert!(!a.holds(CONNECTING, b"nonce", b"holla", &proof));
        assert!(!a.holds(CONNECTING, b"nonce", b"hello", &[]));
        assert!(!b.holds(CONNECTING, b"nonce", b"hello", &proof));
        assert_ne!(a.id, b.id);
    }
}
