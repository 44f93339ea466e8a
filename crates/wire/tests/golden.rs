//! The bytes of the header and of one of every message, as they were when the format was fixed.
//!
//! A difference means that old and new builds no longer understand each other. Fields may be added: then run with
//! `CATENA_WRITE_GOLDEN=1`, and see in the difference that only bytes were added.

mod samples;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use catena_types::crc::crc32c;
use catena_wire::header::{FLAG_REPLY, Header, Kind};

fn golden() -> String {
    let mut text = String::from("# name, kind, bytes; written by tests/golden.rs\n");
    let header = Header {
        kind: Kind::Update,
        flags: FLAG_REPLY,
        body_len: 0x0001_0203,
        payload_len: 0x0010_2030,
        request_id: 0x0102_0304_0506_0708,
        deadline_us: 1_500_000,
        trace_id: 0x1112_1314_1516_1718,
        body_crc: crc32c(b"body"),
        payload_crc: crc32c(b"payload"),
    };
    line(&mut text, "Header", Kind::Update, &header.encode());
    for sample in samples::all() {
        line(&mut text, sample.name, sample.kind, &sample.body);
    }
    text
}

fn line(text: &mut String, name: &str, kind: Kind, bytes: &[u8]) {
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    writeln!(text, "{name} {} {hex}", kind as u16).expect("strings take everything");
}

#[test]
fn the_bytes_have_not_changed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/messages.txt");
    let now = golden();
    if std::env::var_os("CATENA_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &now).expect("the golden file can be written");
    }
    let then = std::fs::read_to_string(&path).expect("the golden file is there");
    for (now, then) in now.lines().zip(then.lines()) {
        assert_eq!(now, then, "the format has changed");
    }
    assert_eq!(now, then, "messages were added or removed");
}

#[test]
fn every_message_survives_and_every_kind_has_one() {
    let mut kinds = BTreeSet::new();
    for sample in samples::all() {
        assert_eq!((sample.again)(&sample.body).as_ref(), Some(&sample.body), "{}", sample.name);
        kinds.insert(sample.kind);
    }
    assert_eq!(kinds, Kind::ALL.into_iter().collect());
}

#[test]
fn fields_that_are_not_known_are_skipped() {
    for sample in samples::all() {
        // Field 500: a number, and field 501: some bytes, as a newer build might add.
        let mut newer = sample.body.clone();
        newer.extend([0xa0, 0x1f, 0x2a, 0xaa, 0x1f, 0x03, b'n', b'e', b'w']);
        assert_eq!((sample.again)(&newer).as_ref(), Some(&sample.body), "{}", sample.name);
    }
}
