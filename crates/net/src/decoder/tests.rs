//! The decoder fed by hand: every split, damage and limit.

use catena_types::limits;
use catena_wire::hello::Hello;
use catena_wire::manager::RoutingRequest;

use super::*;

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut out = frame.header().encode().to_vec();
    out.extend_from_slice(&frame.body);
    out.extend_from_slice(&frame.payload);
    out
}

fn frame(id: u64, payload: Vec<u8>) -> Frame {
    let crc = crc32c(&payload);
    Frame::new(Kind::Update, id, &RoutingRequest { have: id, wait_ms: 7 }).with_payload(payload.into(), crc)
}

fn decoder() -> Decoder {
    let mut d = Decoder::new(Arena::new(16 << 20));
    d.handshake_done();
    d
}

/// Feeds at most `step` bytes at a time; collects the frames.
fn feed(d: &mut Decoder, mut bytes: &[u8], step: usize) -> Result<Vec<Frame>, NetError> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let mut n = 0;
        for space in d.space() {
            let m = space.len().min(bytes.len() - n).min(step - n);
            space[..m].copy_from_slice(&bytes[n..n + m]);
            n += m;
            if m < space.len() {
                break;
            }
        }
        assert!(n > 0, "there is always room");
        d.filled(n);
        bytes = &bytes[n..];
        while let Some(f) = d.next()? {
            frames.push(f);
        }
    }
    Ok(frames)
}

fn check(frames: &[Frame], sent: &[Frame]) {
    assert_eq!(frames.len(), sent.len());
    for (got, want) in frames.iter().zip(sent) {
        assert_eq!((got.request_id, &got.body, &got.payload), (want.request_id, &want.body, &want.payload));
        assert!(got.payload_ok);
    }
}

#[test]
fn many_frames_in_one_segment() {
    let sent: Vec<Frame> = (0..500).map(|n| frame(n, vec![n as u8; (n % 100) as usize])).collect();
    let bytes: Vec<u8> = sent.iter().flat_map(bytes_of).collect();
    let mut d = decoder();
    check(&feed(&mut d, &bytes, usize::MAX).expect("good frames"), &sent);
    assert!(d.at_boundary());
}

#[test]
fn split_at_every_byte_and_one_byte_at_a_time() {
    let sent = [frame(1, b"abc".to_vec()), frame(2, vec![]), frame(3, vec![9; 5000])];
    let bytes: Vec<u8> = sent.iter().flat_map(bytes_of).collect();
    for cut in 0..bytes.len() {
        let mut d = decoder();
        let mut got = feed(&mut d, &bytes[..cut], usize::MAX).expect("good frames");
        got.extend(feed(&mut d, &bytes[cut..], usize::MAX).expect("good frames"));
        check(&got, &sent);
    }
    check(&feed(&mut decoder(), &bytes, 1).expect("good frames"), &sent);
}

#[test]
fn large_payloads_land_aligned_with_hardly_a_copy() {
    let sent: Vec<Frame> = (0..6).map(|n| frame(n, vec![n as u8; 1 << 20])).collect();
    let bytes: Vec<u8> = sent.iter().flat_map(bytes_of).collect();
    for step in [1000, 64 << 10, 3 << 20] {
        let mut d = decoder();
        let got = feed(&mut d, &bytes, step).expect("good frames");
        check(&got, &sent);
        assert!(got.iter().all(|f| catena_arena::is_aligned(&f.payload)));
        let [_, buf] = d.space();
        assert!(buf.len() <= SMALL_READ, "the read buffer steps back for large payloads");
    }
}

#[test]
fn a_body_of_the_largest_size_passes_and_the_buffer_shrinks_again() {
    let mut big = frame(1, vec![]);
    big.body = vec![5; limits::MAX_BODY as usize].into();
    let sent = [big, frame(2, vec![1; 10])];
    let bytes: Vec<u8> = sent.iter().flat_map(bytes_of).collect();
    let mut d = decoder();
    check(&feed(&mut d, &bytes, 70_000).expect("good frames"), &sent);
    d.space();
    assert_eq!(d.buf.len(), READ_BUFFER);
}

#[test]
fn a_damaged_payload_is_told_with_the_frame() {
    let mut bytes = bytes_of(&frame(1, vec![7; 5000]));
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    bytes.extend(bytes_of(&frame(2, vec![8; 10])));
    let got = feed(&mut decoder(), &bytes, 999).expect("the stream is good");
    assert!(!got[0].payload_ok && got[1].payload_ok);
}

#[test]
fn damage_in_header_or_body_ends_the_stream() {
    let good = bytes_of(&frame(1, vec![7; 10]));
    for at in 0..good.len() - 10 {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let error = feed(&mut decoder(), &bad, usize::MAX).expect_err("damage is found");
        assert!(matches!(error, NetError::Header(_) | NetError::BodyDamaged { .. }), "byte {at}: {error}");
    }
}

#[test]
fn garbage_is_named_before_a_whole_header_is_there() {
    let error = feed(&mut decoder(), b"GET / HTTP/1.0\r\n\r\n", usize::MAX).expect_err("not a frame");
    assert!(error.to_string().contains("looks like HTTP"), "{error}");
    assert!(feed(&mut decoder(), b"CATN", 1).expect("may become a frame").is_empty());
}

#[test]
fn strangers_may_only_say_hello() {
    let mut d = Decoder::new(Arena::new(0));
    assert!(matches!(feed(&mut d, &bytes_of(&frame(1, vec![])), 999), Err(NetError::Unexpected { .. })));
    let hello = Frame::new(Kind::Hello, 0, &Hello::default());
    let mut d = Decoder::new(Arena::new(0));
    assert_eq!(feed(&mut d, &bytes_of(&hello), 999).expect("a hello").len(), 1);
    let mut d = Decoder::new(Arena::new(0));
    let with_payload = hello.clone().with_payload(vec![1].into(), crc32c(&[1]));
    assert!(matches!(feed(&mut d, &bytes_of(&with_payload), 999), Err(NetError::Header(HeaderError::TooLong { .. }))));
}
