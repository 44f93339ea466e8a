//! Quantities as people type and read them: `64KiB`, `10GiB`, `1.5s`, `100-199`.

use std::ops::Range;
use std::time::Duration;

use catena_types::limits;

/// A number of bytes: digits with an optional KiB, MiB, GiB, TiB (or K, M, G, T: the same powers of 1024) or KB, MB, GB,
/// TB (powers of 1000).
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim().to_ascii_lowercase());
    let factor: u64 = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("{unit:?} is not a unit of bytes: use KiB, MiB, GiB or TiB")),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number of bytes such as 4096, 64KiB or 10GiB".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| format!("{text} is more bytes than there are"))
}

/// A chunk size: a multiple of the block size, at most the largest chunk.
pub(crate) fn parse_chunk_size(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text)?;
    let size = u32::try_from(bytes).ok().filter(|&size| limits::valid_chunk_size(size));
    size.ok_or_else(|| {
        format!("a chunk size is a multiple of {} bytes, at most {}", limits::BLOCK, bytes_short(limits::MAX_CHUNK))
    })
}

/// A duration: digits with ms, s, m or h.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as 500ms, 10s or 2m".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| expected())?;
    let seconds = match &text[digits..] {
        "ms" => number / 1e3,
        "s" | "" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(expected()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| expected())
}

/// A range of bytes: `first-last`, both included, or `first-` for the rest.
pub(crate) fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let expected = || "expected FIRST-LAST in bytes, both included, such as 0-99, or FIRST- for the rest".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(expected)?;
    let first = parse_bytes(first).map_err(|_| expected())?;
    let end = if last.is_empty() { u64::MAX } else { parse_bytes(last).map_err(|_| expected())?.saturating_add(1) };
    if first < end { Ok(first..end) } else { Err(format!("the range {text} is empty: {}", expected())) }
}

/// Bytes for people, with three digits or so.
pub(crate) fn bytes_short(bytes: impl Into<u64>) -> String {
    let bytes: u64 = bytes.into();
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 99.95 && value.fract() > 0.04);
    format!("{value:.digits$} {}", units[unit])
}

/// `1 chunk`, `2 chunks`.
pub(crate) fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// Bytes per second for people, in MB (10^6) as disks and networks are sold.
pub(crate) fn rate(bytes: u64, time: Duration) -> String {
    format!("{:.0} MB/s", bytes as f64 / time.as_secs_f64().max(1e-9) / 1e6)
}

/// A short duration for people.
pub(crate) fn time_short(time: Duration) -> String {
    let us = time.as_secs_f64() * 1e6;
    match us {
        _ if us < 10_000.0 => format!("{us:.0} µs"),
        _ if us < 1e6 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.1} s", us / 1e6),
    }
}

/// A number with a thin separator every three digits.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The middle number; of an even number, the lower of the two.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_parsed_with_units_and_refused_without_sense() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("64KiB"), Ok(64 << 10));
        assert_eq!(parse_bytes("10 GiB"), Ok(10 << 30));
        assert_eq!(parse_bytes("2k"), Ok(2048));
        assert_eq!(parse_bytes("1MB"), Ok(1_000_000));
        for bad in ["", "KiB", "1.5K", "-1", "4 apples", "99999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_chunk_size("64KiB"), Ok(65536));
        assert!(parse_chunk_size("100").is_err() && parse_chunk_size("128MiB").is_err() && parse_chunk_size("0").is_err());
    }

    #[test]
    fn ranges_and_durations() {
        assert_eq!(parse_range("0-99"), Ok(0..100));
        assert_eq!(parse_range("1KiB-"), Ok(1024..u64::MAX));
        assert!(parse_range("9-3").is_err() && parse_range("7").is_err() && parse_range("-5").is_err());
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert!(parse_duration("soon").is_err() && parse_duration("1e999s").is_err() && parse_duration("1d").is_err());
    }

    #[test]
    fn quantities_read_well() {
        assert_eq!(bytes_short(0_u64), "0 B");
        assert_eq!(bytes_short(65536_u64), "64 KiB");
        assert_eq!(bytes_short(1536_u64), "1.5 KiB");
        assert_eq!(bytes_short(10_u64 << 30), "10 GiB");
        assert_eq!(grouped(1), "1");
        assert_eq!(grouped(1234567), "1,234,567");
        assert_eq!(time_short(Duration::from_micros(1234)), "1234 µs");
        assert_eq!(time_short(Duration::from_millis(1500)), "1.5 s");
    }
}
