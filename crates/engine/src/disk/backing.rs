//! Which parts of a file the file system has given space to.
//!
//! A write may need space that is not there any more: other files may have taken it, or the file system is smaller than the
//! target. That must be known before an update is accepted, so space is asked for ahead of writes: much of it at a time
//! while there is much, little when there is little, and once in a while when there is none.
//!
//! What must hold: a part counts as given only after the file system has said so, and no longer when it was given back.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Bytes asked for at a time, while there is enough. Between the areas of a target lies space that may never be written.
const WINDOW: u64 = 64 << 20;
/// Bytes asked for at a time when there is not.
const STRETCH: u64 = 1 << 20;
/// After a refusal nothing is asked for so long: a file system that is full may take its time to say so.
const PAUSE: Duration = Duration::from_secs(1);

/// See the file's documentation.
#[derive(Default)]
pub(super) struct Backing {
    /// Numbers of windows that were given, and of stretches in other windows.
    windows: BTreeSet<u64>,
    stretches: BTreeSet<u64>,
    /// Stretches of given windows that were given back since.
    holes: BTreeSet<u64>,
    /// When a window, and when a stretch, was refused last.
    no_window: Option<Instant>,
    no_stretch: Option<Instant>,
}

impl Backing {
    /// Whether a write to `range` has its space; asks for what is missing by `ask`, nothing of it behind `size`.
    pub(super) fn ensure(
        &mut self,
        range: Range<u64>,
        size: u64,
        mut ask: impl FnMut(Range<u64>) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = size.max(range.end);
        for stretch in range.start / STRETCH..range.end.div_ceil(STRETCH) {
            if !self.has(stretch) {
                self.ask_for(stretch, end, &mut ask)?;
            }
        }
        Ok(())
    }

    /// The range was given back to the file system, or will be at any moment.
    pub(super) fn gave_back(&mut self, range: Range<u64>) {
        for stretch in range.start / STRETCH..range.end.div_ceil(STRETCH) {
            self.stretches.remove(&stretch);
            if self.windows.contains(&window_of(stretch)) {
                self.holes.insert(stretch);
            }
        }
    }

    fn has(&self, stretch: u64) -> bool {
        let whole = self.windows.contains(&window_of(stretch)) && !self.holes.contains(&stretch);
        whole || self.stretches.contains(&stretch)
    }

    fn ask_for(&mut self, stretch: u64, end: u64, ask: &mut impl FnMut(Range<u64>) -> io::Result<()>) -> io::Result<()> {
        let window = window_of(stretch);
        let part = |number: u64, bytes: u64| number * bytes..((number + 1) * bytes).min(end);
        let may = |refused: Option<Instant>| refused.is_none_or(|at| at.elapsed() >= PAUSE);
        if !self.windows.contains(&window) && may(self.no_window) {
            match ask(part(window, WINDOW)) {
                Ok(()) => {
                    self.windows.insert(window);
                    return Ok(());
                }
                Err(_) => self.no_window = Some(Instant::now()),
            }
        }
        if !may(self.no_stretch) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Err(e) = ask(part(stretch, STRETCH)) {
            self.no_stretch = Some(Instant::now());
            return Err(e);
        }
        if !self.holes.remove(&stretch) {
            self.stretches.insert(stretch);
        }
        Ok(())
    }
}

fn window_of(stretch: u64) -> u64 {
    stretch / (WINDOW / STRETCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Asks of a file system that has so many bytes left; what it was asked for.
    fn asked(backing: &mut Backing, range: Range<u64>, left: &mut u64) -> (bool, Vec<(u64, u64)>) {
        let mut asks = Vec::new();
        let answer = backing.ensure(range, 1 << 40, |part| {
            asks.push((part.start, part.end));
            *left = left.checked_sub(part.end - part.start).ok_or(io::ErrorKind::StorageFull)?;
            Ok(())
        });
        (answer.is_ok(), asks)
    }

    #[test]
    fn much_is_asked_for_at_a_time_and_once() {
        let (mut backing, mut left) = (Backing::default(), 1 << 30);
        assert_eq!(asked(&mut backing, 5 * MIB..6 * MIB, &mut left), (true, vec![(0, WINDOW)]));
        assert_eq!(asked(&mut backing, 0..WINDOW, &mut left), (true, vec![]));
        assert_eq!(asked(&mut backing, WINDOW - 4096..WINDOW + 4096, &mut left), (true, vec![(WINDOW, 2 * WINDOW)]));
    }

    #[test]
    fn little_is_asked_for_when_there_is_little_and_nothing_again_and_again() {
        let (mut backing, mut left) = (Backing::default(), 2 * MIB);
        assert_eq!(asked(&mut backing, 4096..8192, &mut left), (true, vec![(0, WINDOW), (0, MIB)]));
        assert_eq!(asked(&mut backing, 4096..MIB + 1, &mut left), (true, vec![(MIB, 2 * MIB)]));
        assert_eq!(asked(&mut backing, 2 * MIB..4 * MIB, &mut left), (false, vec![(2 * MIB, 3 * MIB)]));
        assert_eq!(asked(&mut backing, 2 * MIB..4 * MIB, &mut left), (false, vec![]), "it was refused a moment ago");
        assert_eq!(asked(&mut backing, 0..2 * MIB, &mut left), (true, vec![]), "what was given stays given");
        std::thread::sleep(PAUSE);
        left = 1 << 30;
        assert_eq!(asked(&mut backing, 2 * MIB..4 * MIB, &mut left), (true, vec![(0, WINDOW)]));
    }

    #[test]
    fn what_was_given_back_is_asked_for_again() {
        let (mut backing, mut left) = (Backing::default(), WINDOW);
        assert!(asked(&mut backing, 0..4096, &mut left).0);
        backing.gave_back(3 * MIB..4 * MIB);
        assert_eq!(asked(&mut backing, 2 * MIB..3 * MIB, &mut left), (true, vec![]));
        assert_eq!(asked(&mut backing, 3 * MIB..3 * MIB + 4096, &mut left), (false, vec![(3 * MIB, 4 * MIB)]));
    }
}
