//! Every decoder fed with rubbish and with damaged good bytes: no panic, nothing that is larger than what came, a named
//! error.

mod samples;

use catena_types::crc::crc32c;
use catena_types::limits;
use catena_wire::header::{HEADER_BYTES, Header, HeaderError, Kind, describe};
use proptest::prelude::*;
use proptest::sample::Index;

/// What was understood, written again, is bounded by what came: an empty message in a list may hold required ones that
/// were not there.
fn check_message(bytes: &[u8]) {
    for sample in samples::all() {
        if let Some(again) = (sample.again)(bytes) {
            let (name, kind) = (sample.name, sample.kind);
            assert!(again.len() <= 4 * bytes.len() + 64, "{name} ({kind:?}): {} bytes out of {}", again.len(), bytes.len());
        }
    }
}

fn check_header(bytes: &[u8; HEADER_BYTES]) {
    match Header::decode(bytes) {
        Ok(h) => {
            assert!(h.body_len <= limits::MAX_BODY && h.payload_len <= limits::MAX_PAYLOAD);
            assert_eq!(Header::decode(&h.encode()), Ok(h));
        }
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

fn damage(good: &[u8], hits: &[(Index, u8)], cut: Option<Index>) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for (at, mask) in hits {
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len() + 1));
    }
    bytes
}

fn header() -> Header {
    Header {
        kind: Kind::Update,
        flags: 0,
        body_len: 100,
        payload_len: 4096,
        request_id: 1,
        deadline_us: 2,
        trace_id: 3,
        body_crc: 4,
        payload_crc: 5,
    }
}

proptest! {
    #[test]
    fn rubbish(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        check_message(&bytes);
        prop_assert!(!describe(&bytes).is_empty());
        if let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
            check_header(header);
        }
    }

    #[test]
    fn damaged_messages(
        which: Index,
        hits in prop::collection::vec((any::<Index>(), 1u8..), 1..6),
        cut: Option<Index>,
    ) {
        let all = samples::all();
        check_message(&damage(&all[which.index(all.len())].body, &hits, cut));
    }

    #[test]
    fn damaged_headers_are_refused(hits in prop::collection::vec((any::<Index>(), 1u8..), 1..3)) {
        let good = header().encode();
        let bad = damage(&good, &hits, None);
        let bad = bad.first_chunk().expect("as long as before");
        check_header(bad);
        prop_assert!(*bad == good || Header::decode(bad).is_err(), "a checksum finds a few damaged bytes");
    }

    /// Whoever can compute a checksum can still not ask for more than the limits.
    #[test]
    fn headers_of_a_liar(hits in prop::collection::vec((4usize..60, any::<u8>()), 1..20)) {
        let mut bytes = header().encode();
        hits.iter().for_each(|&(at, b)| bytes[at] = b);
        let crc = crc32c(&bytes[..HEADER_BYTES - 4]).to_le_bytes();
        bytes[HEADER_BYTES - 4..].copy_from_slice(&crc);
        check_header(&bytes);
        let damaged = matches!(Header::decode(&bytes), Err(HeaderError::Damaged { .. } | HeaderError::NotAFrame(_)));
        prop_assert!(!damaged, "the checksum is right, something else is named");
    }
}
