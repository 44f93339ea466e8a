//! Every class of answer in every phase of an update and a read.

use catena_types::{Chain, Code, Failure, Member, PublicState, Routing, TargetId};

use super::*;
use crate::error::{ErrorKind, Retry};

const DEADLINE: Time = 30_000 * MS;

/// Routing of this version with chain 1 under `chain_ver`; `serving` in order.
fn routing(version: u64, chain_ver: u64, serving: &[TargetId]) -> Routing {
    let member = |&target| Member { target, state: PublicState::Serving as i32, chosen: false };
    let chain = Chain { id: 1, chain_ver, members: serving.iter().map(member).collect() };
    Routing { version, chains: vec![chain], table: vec![1], ..Routing::default() }
}

fn update() -> UpdateCall {
    UpdateCall::new(1, 4096, true, DEADLINE, Tuning::default())
}

fn sent(step: Step) -> Attempt {
    match step {
        Step::Send(a) => a,
        other => panic!("expected an attempt, not {other:?}"),
    }
}

fn waits(step: Step) -> (Time, Option<u64>) {
    match step {
        Step::Wait { until, newer_than } => (until, newer_than),
        other => panic!("expected a pause, not {other:?}"),
    }
}

fn ended(step: Step) -> Error {
    match step {
        Step::Failed(e) => e,
        other => panic!("expected the end, not {other:?}"),
    }
}

fn failure(code: Code) -> Failure {
    Failure::new(code, "because").under(5)
}

const REJECTED: [Code; 5] = [Code::InvalidArgument, Code::NotFound, Code::PreconditionFailed, Code::NoSpace, Code::ReadOnly];
const REDIRECT: [Code; 6] =
    [Code::WrongChainVersion, Code::NotHead, Code::NotServing, Code::LeaseExpired, Code::UnknownChain, Code::Io];
const REFUSED: [Code; 5] = [Code::WrongCluster, Code::WrongProtocol, Code::Malformed, Code::DuplicateNode, Code::NotAuthorized];
const UNKNOWN: [Code; 4] = [Code::OutcomeUnknown, Code::Timeout, Code::Corrupt, Code::Ok];

#[test]
fn an_update_goes_to_the_head_under_the_routing_given() {
    let mut call = update();
    let a = sent(call.step(7, &routing(3, 5, &[10, 20, 30])));
    assert_eq!((a.number, a.chain, a.chain_ver, a.target, a.first), (1, 1, 5, 10, true));
    assert!(matches!(call.step(8, &routing(3, 5, &[10])), Step::Await { until } if until == a.until));
}

#[test]
fn a_reject_of_the_only_attempt_is_final() {
    for code in REJECTED {
        let mut call = update();
        let a = sent(call.step(0, &routing(3, 5, &[10])));
        call.failed(a.number, &failure(code), 1);
        let e = ended(call.step(1, &routing(3, 5, &[10])));
        assert_eq!(e.code(), Some(code));
        assert_ne!(e.retry(), Retry::AfterReading, "{code:?}");
    }
}

#[test]
fn a_reject_after_a_lost_attempt_is_final_only_under_its_chain_version() {
    for (reject_ver, is_final) in [(5, true), (6, true), (4, false), (0, false)] {
        let mut call = update();
        let r = routing(3, 5, &[10]);
        let a = sent(call.step(0, &r));
        call.lost(a.number, Lost::Broken("reset".into()), 1);
        let b = sent(call.step(1, &r));
        call.failed(b.number, &failure(Code::NoSpace).under(reject_ver), 2);
        if is_final {
            assert_eq!(ended(call.step(2, &r)).kind(), ErrorKind::NoSpace, "under {reject_ver}");
        } else {
            waits(call.step(2, &r));
            assert_eq!(ended(call.step(DEADLINE, &r)).kind(), ErrorKind::OutcomeUnknown, "under {reject_ver}");
        }
    }
}

#[test]
fn a_reject_of_an_older_attempt_is_ignored() {
    for code in REJECTED.into_iter().chain(REFUSED) {
        let mut call = update();
        let a = sent(call.step(0, &routing(3, 5, &[10, 20])));
        call.lost(a.number, Lost::TimedOut, 1);
        let b = sent(call.step(1, &routing(4, 6, &[20])));
        call.failed(a.number, &failure(code), 2);
        assert!(matches!(call.step(2, &routing(4, 6, &[20])), Step::Await { .. }), "{code:?}");
        assert_eq!((b.number, b.chain_ver, b.target), (2, 6, 20));
    }
}

#[test]
fn a_late_redirect_of_a_lost_attempt_removes_the_doubt() {
    let mut call = update();
    let r = routing(3, 5, &[10]);
    let a = sent(call.step(0, &r));
    call.lost(a.number, Lost::TimedOut, 1);
    let b = sent(call.step(1, &r));
    call.failed(a.number, &failure(Code::NotServing), 2);
    call.failed(b.number, &failure(Code::NoSpace).under(0), 3);
    assert_eq!(ended(call.step(3, &r)).kind(), ErrorKind::NoSpace);
}

#[test]
fn a_redirect_is_followed_at_once_with_newer_routing() {
    for code in REDIRECT {
        let mut call = update();
        let a = sent(call.step(0, &routing(3, 5, &[10, 20])));
        call.failed(a.number, &failure(code), 1);
        let (until, newer_than) = waits(call.step(1, &routing(3, 5, &[10, 20])));
        assert_eq!((until, newer_than), (1 + 5 * MS, Some(3)), "{code:?}");
        let b = sent(call.step(2, &routing(4, 6, &[20])));
        assert_eq!((b.number, b.chain_ver, b.target), (2, 6, 20));
    }
}

#[test]
fn pauses_grow_while_routing_does_not_change() {
    let mut call = update();
    let r = routing(3, 5, &[10]);
    let (mut now, mut pauses) = (0, Vec::new());
    for _ in 0..7 {
        let a = sent(call.step(now, &r));
        call.failed(a.number, &failure(Code::NotServing), now);
        let (until, _) = waits(call.step(now, &r));
        pauses.push((until - now) / MS);
        now = until;
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 100, 100]);
}

#[test]
fn redirects_and_overloads_until_the_deadline_are_not_applied() {
    for (code, kind) in [(Code::NotServing, ErrorKind::Unavailable), (Code::Busy, ErrorKind::Overloaded)] {
        let mut call = update();
        let r = routing(3, 5, &[10]);
        let mut now = 0;
        let e = loop {
            match call.step(now, &r) {
                Step::Send(a) => call.failed(a.number, &failure(code), now),
                Step::Wait { until, .. } => now = until,
                Step::Failed(e) => break e,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((e.kind(), e.retry(), now), (kind, Retry::Later, DEADLINE));
    }
}

#[test]
fn an_overload_pauses_as_long_as_asked_and_longer_each_time() {
    let mut call = update();
    let r = routing(3, 5, &[10]);
    let busy = failure(Code::Busy).with_version(20_000);
    let a = sent(call.step(0, &r));
    call.failed(a.number, &busy, 0);
    assert_eq!(waits(call.step(0, &routing(9, 9, &[10]))), (20 * MS, None), "newer routing makes nobody less busy");
    let b = sent(call.step(20 * MS, &r));
    call.failed(b.number, &busy, 20 * MS);
    assert_eq!(waits(call.step(20 * MS, &r)).0, 60 * MS);
}

#[test]
fn what_may_have_been_applied_ends_unknown() {
    type Ending = fn(&mut UpdateCall, u32);
    let mut endings: Vec<Ending> =
        vec![|c, n| c.lost(n, Lost::Broken("reset".into()), 1), |c, n| c.lost(n, Lost::TimedOut, 1), |_, _| ()];
    let unknown: [Ending; 4] = [
        |c, n| c.failed(n, &failure(UNKNOWN[0]), 1),
        |c, n| c.failed(n, &failure(UNKNOWN[1]), 1),
        |c, n| c.failed(n, &failure(UNKNOWN[2]), 1),
        |c, n| c.failed(n, &failure(UNKNOWN[3]), 1),
    ];
    endings.extend(unknown);
    for (i, ending) in endings.into_iter().enumerate() {
        let mut call = update();
        let r = routing(3, 5, &[10]);
        let a = sent(call.step(0, &r));
        ending(&mut call, a.number);
        let e = ended(call.step(DEADLINE, &r));
        assert_eq!((e.kind(), e.retry()), (ErrorKind::OutcomeUnknown, Retry::AfterReading), "ending {i}");
        // Whatever comes later changes nothing.
        call.failed(a.number, &failure(Code::NoSpace), DEADLINE);
        assert_eq!(ended(call.step(DEADLINE + 1, &r)).kind(), ErrorKind::OutcomeUnknown);
    }
}

#[test]
fn one_doubtful_attempt_outweighs_any_number_of_redirects() {
    let mut call = update();
    let r = routing(3, 5, &[10]);
    let a = sent(call.step(0, &r));
    call.lost(a.number, Lost::TimedOut, 1);
    let b = sent(call.step(1, &r));
    call.failed(b.number, &failure(Code::NotServing), 2);
    assert_eq!(ended(call.step(DEADLINE, &r)).kind(), ErrorKind::OutcomeUnknown);
}

#[test]
fn what_was_never_sent_was_not_applied() {
    let mut call = update();
    let r = routing(3, 5, &[10]);
    let a = sent(call.step(0, &r));
    call.lost(a.number, Lost::NotSent("connection refused".into()), 1);
    waits(call.step(1, &r));
    let e = ended(call.step(DEADLINE, &r));
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert!(e.to_string().contains("gave up after 1 attempts"), "{e}");
}

#[test]
fn a_timeout_is_found_by_stepping_and_makes_the_next_one_longer() {
    let mut call = update();
    let r = routing(3, 5, &[10]);
    let a = sent(call.step(0, &r));
    let b = sent(call.step(a.until, &r));
    assert_eq!(b.number, 2);
    assert!(b.until - a.until > a.until, "the second attempt is given twice the time");
}

#[test]
fn refused_is_final_unless_something_is_in_doubt() {
    for code in REFUSED {
        let r = routing(3, 5, &[10]);
        let mut call = update();
        let a = sent(call.step(0, &r));
        call.failed(a.number, &failure(code), 1);
        assert_eq!(ended(call.step(1, &r)).kind(), ErrorKind::Refused);

        let mut call = update();
        let a = sent(call.step(0, &r));
        call.lost(a.number, Lost::TimedOut, 1);
        let b = sent(call.step(1, &r));
        call.failed(b.number, &failure(code), 2);
        assert_eq!(ended(call.step(2, &r)).kind(), ErrorKind::OutcomeUnknown);
    }
}

#[test]
fn a_stale_request_is_unknown_whichever_attempt_it_answers() {
    let r = routing(3, 5, &[10]);
    let mut call = update();
    let a = sent(call.step(0, &r));
    call.lost(a.number, Lost::TimedOut, 1);
    sent(call.step(1, &r));
    call.failed(a.number, &failure(Code::StaleRequest), 2);
    assert_eq!(ended(call.step(2, &r)).kind(), ErrorKind::OutcomeUnknown);
}

#[test]
fn a_forgotten_session_is_made_anew_only_if_nothing_is_in_doubt() {
    let r = routing(3, 5, &[10]);
    let known = || UpdateCall::new(1, 0, false, DEADLINE, Tuning::default());
    let mut call = known();
    let a = sent(call.step(0, &r));
    assert!(!a.first);
    call.failed(a.number, &failure(Code::SessionUnknown), 1);
    let b = sent(call.step(1, &r));
    assert!(b.first);
    call.failed(b.number, &failure(Code::SessionUnknown), 2);
    assert_eq!(ended(call.step(2, &r)).kind(), ErrorKind::OutcomeUnknown);

    let mut call = known();
    let a = sent(call.step(0, &r));
    call.lost(a.number, Lost::TimedOut, 1);
    let b = sent(call.step(1, &r));
    call.failed(b.number, &failure(Code::SessionUnknown), 2);
    assert_eq!(ended(call.step(2, &r)).kind(), ErrorKind::OutcomeUnknown);
}

#[test]
fn a_damaged_payload_is_sent_again_a_few_times() {
    let r = routing(3, 5, &[10]);
    let mut call = update();
    for _ in 0..3 {
        let a = sent(call.step(1, &r));
        call.failed(a.number, &failure(Code::PayloadCorrupt), 1);
    }
    assert_eq!(ended(call.step(1, &r)).kind(), ErrorKind::PayloadCorrupt);
}

#[test]
fn older_routing_is_not_used_again() {
    let mut call = update();
    let a = sent(call.step(0, &routing(4, 6, &[20])));
    call.lost(a.number, Lost::TimedOut, 1);
    waits(call.step(1, &routing(3, 5, &[10])));
    assert_eq!(sent(call.step(2, &routing(5, 6, &[20]))).chain_ver, 6);
}

#[test]
fn a_chain_without_a_head_is_waited_for() {
    let mut call = update();
    assert_eq!(waits(call.step(0, &routing(3, 5, &[]))).1, Some(3));
    assert_eq!(sent(call.step(1, &routing(4, 6, &[20]))).target, 20);
    let mut call = update();
    waits(call.step(0, &routing(3, 5, &[])));
    let e = ended(call.step(DEADLINE, &routing(3, 5, &[])));
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert!(e.cause().contains("no serving replica"), "{e}");
}

fn read(place: Place) -> ReadCall {
    ReadCall::new(1, place, 0, DEADLINE, Tuning::default())
}

const FREE: &dyn Fn(TargetId) -> u64 = &|_| 0;

#[test]
fn reads_go_round_and_prefer_the_idle() {
    let r = routing(3, 5, &[10, 20, 30]);
    let first = |start, cost| sent(read(Place::Any { start }).step(0, &r, cost)).target;
    assert_eq!([0, 1, 2, 3].map(|start| first(start, FREE)), [10, 20, 30, 10]);
    assert_eq!(first(0, &|t| if t == 20 { 0 } else { 3 }), 20);
    assert_eq!(sent(read(Place::Tail).step(0, &r, FREE)).target, 30);
    assert_eq!(sent(read(Place::Target(20)).step(0, &r, FREE)).target, 20);
    assert_eq!(ended(read(Place::Target(99)).step(0, &r, FREE)).kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_read_asks_another_replica_whatever_the_trouble() {
    let r = routing(3, 5, &[10, 20]);
    let mut troubles: Vec<Code> = REDIRECT.into_iter().chain(UNKNOWN).chain(REFUSED).collect();
    troubles.push(Code::Busy);
    for code in troubles {
        let mut call = read(Place::Any { start: 0 });
        let a = sent(call.step(0, &r, FREE));
        call.failed(a.number, &failure(code).with_version(1), 1);
        assert_eq!(sent(call.step(1, &r, FREE)).target, 20, "{code:?}");
    }
    for how in [Lost::NotSent("refused".into()), Lost::Broken("reset".into()), Lost::TimedOut] {
        let mut call = read(Place::Any { start: 0 });
        let a = sent(call.step(0, &r, FREE));
        call.lost(a.number, how.clone(), 1);
        assert_eq!(sent(call.step(1, &r, FREE)).target, 20, "{how:?}");
    }
}

#[test]
fn a_rejected_read_is_final() {
    for code in REJECTED {
        let mut call = read(Place::Any { start: 0 });
        let a = sent(call.step(0, &routing(3, 5, &[10, 20]), FREE));
        call.failed(a.number, &failure(code), 1);
        assert_eq!(ended(call.step(1, &routing(3, 5, &[10, 20]), FREE)).code(), Some(code));
    }
}

#[test]
fn corrupt_everywhere_is_corrupt() {
    let r = routing(3, 5, &[10, 20]);
    let mut call = read(Place::Any { start: 0 });
    for _ in 0..2 {
        let a = sent(call.step(1, &r, FREE));
        call.failed(a.number, &failure(Code::Corrupt), 1);
    }
    let e = ended(call.step(1, &r, FREE));
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert!(e.to_string().contains("targets 10, 20"), "{e}");
}

#[test]
fn corrupt_here_and_slow_there_is_asked_again_there() {
    let r = routing(3, 5, &[10, 20]);
    let mut call = read(Place::Any { start: 0 });
    let a = sent(call.step(0, &r, FREE));
    call.failed(a.number, &failure(Code::Corrupt), 1);
    let b = sent(call.step(1, &r, FREE));
    call.lost(b.number, Lost::TimedOut, 2);
    let (until, _) = waits(call.step(2, &r, FREE));
    assert_eq!(sent(call.step(until, &r, FREE)).target, 20, "the corrupt one is not asked again");
}

#[test]
fn newer_membership_elsewhere_is_fetched_before_anybody_else_is_asked() {
    let r = routing(3, 5, &[10, 20]);
    let mut call = read(Place::Any { start: 0 });
    let a = sent(call.step(0, &r, FREE));
    call.failed(a.number, &failure(Code::WrongChainVersion).with_version(6), 1);
    assert_eq!(waits(call.step(1, &r, FREE)), (1 + 5 * MS, Some(3)));
    assert_eq!(sent(call.step(2, &routing(4, 6, &[20]), FREE)).chain_ver, 6);
}

#[test]
fn when_everybody_was_asked_there_is_a_pause_and_a_new_round() {
    let r = routing(3, 5, &[10, 20]);
    let mut call = read(Place::Any { start: 0 });
    for _ in 0..2 {
        let a = sent(call.step(0, &r, FREE));
        call.failed(a.number, &failure(Code::Busy).with_version(30_000), 0);
    }
    let (until, newer_than) = waits(call.step(0, &r, FREE));
    assert_eq!((until, newer_than), (30 * MS, Some(3)));
    sent(call.step(until, &r, FREE));
    assert_eq!(ended(call.step(DEADLINE, &r, FREE)).kind(), ErrorKind::Timeout);
}

#[test]
fn a_replica_asked_by_name_that_does_not_serve_says_so_at_once() {
    let mut r = routing(3, 5, &[10, 20]);
    r.chains[0].members[1].state = PublicState::Syncing as i32;
    let mut call = read(Place::Target(20));
    let a = sent(call.step(0, &r, FREE));
    call.failed(a.number, &failure(Code::NotServing), 1);
    assert_eq!(ended(call.step(1, &r, FREE)).kind(), ErrorKind::Unavailable);
}

#[test]
fn answers_to_older_attempts_of_a_read_are_ignored() {
    let r = routing(3, 5, &[10, 20]);
    let mut call = read(Place::Any { start: 0 });
    let a = sent(call.step(0, &r, FREE));
    call.lost(a.number, Lost::TimedOut, 1);
    sent(call.step(1, &r, FREE));
    call.failed(a.number, &failure(Code::NotFound), 2);
    assert!(matches!(call.step(2, &r, FREE), Step::Await { .. }));
}
