//! Which blocks of the data area are free.
//!
//! A bitmap with a summary (one bit per 64 blocks), searched from where the last search ended so that updates of one turn
//! lie side by side and freed space is swept in order. Space that was never used is left alone while there is enough behind
//! it: a file system writes faster to blocks it has written before, and the file stays small. Small requests are served from
//! a stretch of their own ([`Allocator::choose`]), so that random updates of many chunks become few writes.
//!
//! What must hold: `free` is exactly the number of clear bits; a block is never handed out twice; freeing a free block is a
//! broken invariant of the engine, not an input error.

use std::ops::Range;

/// A run of blocks in the data area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// First block, from the start of the data area.
    pub(crate) disk: u64,
    /// Number of blocks.
    pub(crate) len: u32,
}

/// Runs looked at before a fragmented answer is accepted.
const PROBES: u32 = 64;

/// Free blocks (64 MiB) there should be at least among those used before, so that a search soon finds what it wants.
const SPARE: u64 = 16_384;

/// Requests of fewer blocks than this (64 KiB) are small.
const SMALL: u32 = 16;
/// Free runs that the next stretch for small requests is the longest of.
const CHOICE: u32 = 16;
/// Blocks (256 KiB) of such a stretch that was never used, which is taken when no other is that long.
const FRESH: u32 = 64;
/// Small requests leave at most so many blocks free behind them for each one in use.
const SPREAD: u64 = 3;

/// The allocator of one target.
pub(crate) struct Allocator {
    /// One bit per block: set = taken. Bits behind the end are set.
    words: Vec<u64>,
    /// One bit per word: set = no free block in it.
    full: Vec<u64>,
    total: u64,
    free: u64,
    cursor: u64,
    /// No block from here on was ever taken for data.
    reach: u64,
    /// Blocks from `reach` to here are prepared, or are held for it.
    ready: u64,
    /// Small requests are served from here. Others may take from it too.
    small: Range<u64>,
    /// The next search for such a stretch starts here.
    sweep: u64,
}

impl Allocator {
    /// All of `total` blocks free.
    pub(crate) fn new(total: u64) -> Allocator {
        let mut words = vec![0u64; total.div_ceil(64) as usize];
        if !total.is_multiple_of(64)
            && let Some(last) = words.last_mut()
        {
            *last = !0 << (total % 64);
        }
        let mut full = vec![0u64; words.len().div_ceil(64)];
        if !words.len().is_multiple_of(64)
            && let Some(last) = full.last_mut()
        {
            *last = !0 << (words.len() % 64);
        }
        Allocator { words, full, total, free: total, cursor: 0, reach: 0, ready: 0, small: 0..0, sweep: 0 }
    }

    /// Blocks in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Blocks free.
    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    /// Takes `want` blocks, in one run if one is found soon; `None` (and nothing taken) if there are not that many.
    pub(crate) fn take(&mut self, want: u32) -> Option<Vec<Run>> {
        if u64::from(want) > self.free {
            return None;
        }
        if want == 0 {
            return Some(Vec::new());
        }
        if let Some(run) = self.find_whole(want) {
            self.mark(run);
            return Some(vec![run]);
        }
        Some(self.take_pieces(want))
    }

    /// The same, for the blocks of one update of many: small ones lie behind each other, so that they become few writes.
    pub(crate) fn take_beside(&mut self, want: u32) -> Option<Vec<Run>> {
        let Some(run) = (1..SMALL).contains(&want).then(|| self.find_small(want)).flatten() else { return self.take(want) };
        self.small.start = run.disk + u64::from(run.len);
        let taken = self.set(run);
        debug_assert!(taken, "a run that was found free is free");
        Some(vec![run])
    }

    /// The same, but the first blocks that are free, in however many runs.
    pub(crate) fn take_first(&mut self, want: u32) -> Option<Vec<Run>> {
        if u64::from(want) > self.free {
            return None;
        }
        self.cursor = 0;
        Some(self.take_pieces(want))
    }

    fn take_pieces(&mut self, want: u32) -> Vec<Run> {
        let (mut runs, mut left) = (Vec::new(), want);
        while left > 0 {
            let run = self.next_run(self.cursor, left).or_else(|| self.next_run(0, left));
            let run = run.expect("`free` counts the clear bits, and enough were counted");
            self.mark(run);
            left -= run.len;
            runs.push(run);
        }
        runs
    }

    /// Takes `want` blocks side by side, at a multiple of `want` if there is such a place; `None` if there is none at all.
    pub(crate) fn take_run(&mut self, want: u32) -> Option<Run> {
        let aligned = |run: &Run| run.disk.next_multiple_of(u64::from(want));
        let mut any = None;
        let mut from = 0;
        while let Some(run) = self.next_run(from, u32::MAX) {
            let (end, at) = (run.disk + u64::from(run.len), aligned(&run));
            if at + u64::from(want) <= end {
                let run = Run { disk: at, len: want };
                self.mark(run);
                return Some(run);
            }
            if any.is_none() && run.len >= want {
                any = Some(Run { disk: run.disk, len: want });
            }
            from = end;
        }
        let run = any?;
        self.mark(run);
        Some(run)
    }

    /// Number of runs the free blocks are in.
    pub(crate) fn free_runs(&self) -> u64 {
        let mut before = 1u64;
        let mut runs = 0;
        for &word in &self.words {
            // A run starts where a clear bit follows a set one.
            runs += u64::from((!word & ((word << 1) | before)).count_ones());
            before = word >> 63;
        }
        runs
    }

    /// The block behind the last one taken.
    pub(crate) fn used_until(&self) -> u64 {
        let behind = self.total % 64;
        let last = self.words.len().saturating_sub(1);
        let mine = |(n, word): (usize, &u64)| {
            let word = if n == last && behind != 0 { word & !(!0 << behind) } else { *word };
            (word != 0).then(|| n as u64 * 64 + 64 - u64::from(word.leading_zeros()))
        };
        self.words.iter().enumerate().rev().find_map(mine).unwrap_or(0)
    }

    /// Whether all blocks of the run are free.
    pub(crate) fn is_free(&self, run: Run) -> bool {
        self.next_run(run.disk, run.len) == Some(run)
    }

    /// What should be prepared next, so that nearly `ahead` blocks behind those used before are: `len` of them.
    pub(crate) fn unprepared(&self, ahead: u64, len: u32) -> Option<Run> {
        let start = self.ready.max(self.reach);
        let end = start + u64::from(len);
        // When little is left, all of it is needed.
        (end <= (self.reach + ahead).min(self.total) && self.free > 8 * ahead).then_some(Run { disk: start, len })
    }

    /// Takes what is to be prepared now.
    pub(crate) fn hold(&mut self, run: Run) {
        let free = self.fill(run);
        debug_assert!(free, "nobody has used it");
        self.ready = run.disk + u64::from(run.len);
    }

    /// Frees what [`Allocator::hold`] took.
    pub(crate) fn prepared(&mut self, run: Run) {
        let held = self.clear(run);
        debug_assert!(held, "it was held");
    }

    /// No block from here on was used before.
    pub(crate) fn reach(&self) -> u64 {
        self.reach
    }

    /// Free blocks among those used before.
    pub(crate) fn spare(&self) -> u64 {
        self.reach.saturating_sub(self.total - self.free)
    }

    fn find_small(&mut self, want: u32) -> Option<Run> {
        let rest = |a: &Allocator| {
            let run = a.next_run(a.small.start, want)?;
            (run.len == want && run.disk + u64::from(want) <= a.small.end).then_some(run)
        };
        rest(self).or_else(|| {
            self.small = self.choose();
            rest(self)
        })
    }

    /// The next stretch for small requests: the longest of the next free runs, or one never used.
    fn choose(&mut self) -> Range<u64> {
        let mut best = Run { disk: 0, len: 0 };
        for _ in 0..CHOICE {
            let Some(run) = self.next_run(self.sweep, 4 * FRESH).filter(|run| run.disk < self.reach) else {
                self.sweep = 0;
                break;
            };
            self.sweep = run.disk + u64::from(run.len);
            if run.len > best.len {
                best = run;
            }
        }
        let used = self.total - self.free;
        if best.len < FRESH
            && self.spare() < SPARE + SPREAD * used
            && let Some(run) = self.next_run(self.reach, FRESH).filter(|run| run.len > best.len)
        {
            best = run;
            self.reach = run.disk + u64::from(run.len);
        }
        best.disk..best.disk + u64::from(best.len)
    }

    fn find_whole(&self, want: u32) -> Option<Run> {
        let limit = if self.has_spare(want) { self.reach } else { self.total };
        self.find_below(limit, want).or_else(|| self.next_run(self.reach, want).filter(|run| run.len == want))
    }

    /// Whether there is enough among the blocks used before: a quarter of them free, or more.
    fn has_spare(&self, want: u32) -> bool {
        self.spare() >= SPARE.max(self.reach / 4) + u64::from(want)
    }

    fn find_below(&self, limit: u64, want: u32) -> Option<Run> {
        let mut from = self.cursor;
        let mut wrapped = false;
        for _ in 0..PROBES {
            match self.next_run(from, want).filter(|run| run.disk < limit) {
                Some(run) if run.len == want => return Some(run),
                Some(run) => from = run.disk + u64::from(run.len),
                None if wrapped => return None,
                None => (wrapped, from) = (true, 0),
            }
        }
        None
    }

    /// The first free run at or after `from`, cut to `most` blocks.
    fn next_run(&self, from: u64, most: u32) -> Option<Run> {
        let start = self.next_free(from)?;
        let mut end = start;
        while end - start < u64::from(most) && end < self.total {
            let (word, bit) = ((end / 64) as usize, end % 64);
            let ahead = u64::from((self.words[word] >> bit).trailing_zeros()).min(64 - bit);
            end += ahead;
            if ahead < 64 - bit {
                break;
            }
        }
        let len = (end - start).min(u64::from(most)) as u32;
        Some(Run { disk: start, len })
    }

    fn next_free(&self, from: u64) -> Option<u64> {
        if from >= self.total {
            return None;
        }
        let first = (from / 64) as usize;
        let here = !self.words[first] & (!0 << (from % 64));
        if here != 0 {
            return Some(first as u64 * 64 + u64::from(here.trailing_zeros()));
        }
        let next = first + 1;
        let mut group = next / 64;
        let mut mask = !0u64 << (next % 64);
        while group < self.full.len() {
            let open = !self.full[group] & mask;
            if open != 0 {
                let word = group * 64 + open.trailing_zeros() as usize;
                return Some(word as u64 * 64 + u64::from((!self.words[word]).trailing_zeros()));
            }
            (group, mask) = (group + 1, !0);
        }
        None
    }

    fn mark(&mut self, run: Run) {
        let taken = self.set(run);
        debug_assert!(taken, "a run that was found free is free");
        self.cursor = run.disk + u64::from(run.len);
    }

    /// The next search starts here.
    pub(crate) fn search_from(&mut self, block: u64) {
        self.cursor = block;
    }

    /// Takes exactly this run; `false` (with nothing promised about what was taken) if any of it is taken or outside.
    pub(crate) fn set(&mut self, run: Run) -> bool {
        self.reach = self.reach.max(run.disk.saturating_add(run.len.into()).min(self.total));
        self.fill(run)
    }

    fn fill(&mut self, run: Run) -> bool {
        self.change(
            run,
            |word, mask| {
                if *word & mask == 0 {
                    *word |= mask;
                    true
                } else {
                    false
                }
            },
            -1,
        )
    }

    /// Gives the run back; `false` if any of it was free or outside.
    pub(crate) fn clear(&mut self, run: Run) -> bool {
        self.change(
            run,
            |word, mask| {
                if *word & mask == mask {
                    *word &= !mask;
                    true
                } else {
                    false
                }
            },
            1,
        )
    }

    fn change(&mut self, run: Run, f: impl Fn(&mut u64, u64) -> bool, sign: i64) -> bool {
        let Some(end) = run.disk.checked_add(u64::from(run.len)).filter(|&end| end <= self.total) else { return false };
        let mut at = run.disk;
        while at < end {
            let (word, bit) = ((at / 64) as usize, at % 64);
            let n = (64 - bit).min(end - at);
            let mask = if n == 64 { !0 } else { ((1u64 << n) - 1) << bit };
            if !f(&mut self.words[word], mask) {
                return false;
            }
            let full = u64::from(self.words[word] == !0);
            self.full[word / 64] = self.full[word / 64] & !(1 << (word % 64)) | full << (word % 64);
            self.free = self.free.wrapping_add_signed(sign * n as i64);
            at += n;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(total in 1u64..300, ops in proptest::collection::vec((0u8..3, 0u32..40), 1..200)) {
            let mut alloc = Allocator::new(total);
            let mut taken = vec![false; total as usize];
            let mut held: Vec<Run> = Vec::new();
            for (how, n) in ops {
                let free = taken.iter().filter(|&&t| !t).count() as u64;
                prop_assert_eq!(alloc.free(), free);
                if how < 2 {
                    let got = if how == 0 { alloc.take(n) } else { alloc.take_beside(n) };
                    prop_assert_eq!(got.is_some(), u64::from(n) <= free);
                    let got = got.unwrap_or_default();
                    prop_assert!(got.is_empty() || got.iter().map(|r| r.len).sum::<u32>() == n);
                    for run in got {
                        for b in run.disk..run.disk + u64::from(run.len) {
                            prop_assert!(!taken[b as usize], "handed out twice");
                            taken[b as usize] = true;
                        }
                        held.push(run);
                    }
                } else if !held.is_empty() {
                    let run = held.swap_remove(n as usize % held.len());
                    prop_assert!(alloc.clear(run));
                    taken[run.disk as usize..(run.disk + u64::from(run.len)) as usize].fill(false);
                    prop_assert!(!alloc.clear(run), "freed twice");
                }
            }
        }
    }

    #[test]
    fn space_that_was_used_is_used_again_before_any_other() {
        let mut alloc = Allocator::new(1 << 20);
        let mut live = std::collections::VecDeque::new();
        for _ in 0..100_000 {
            live.push_back(alloc.take(256).expect("there is room")[0]);
            if live.len() > 100 {
                assert!(live.pop_front().is_some_and(|run| alloc.clear(run)));
            }
        }
        assert!(alloc.reach <= 100 * 256 + SPARE + 2 * 256, "{}", alloc.reach);
        // One hole of a block each leaves no room for two: what was never used is better than pieces.
        let (mut alloc, mut odd) = (Allocator::new(1 << 20), Vec::new());
        for n in 0..4 * SPARE {
            let run = alloc.take_beside(1).expect("there is room")[0];
            odd.extend((n % 2 == 1).then_some(run));
        }
        assert!(odd.into_iter().all(|run| alloc.clear(run)));
        assert_eq!(alloc.take(2), Some(vec![Run { disk: 4 * SPARE, len: 2 }]));
        assert_eq!(alloc.take_beside(1), Some(vec![Run { disk: 4 * SPARE + 2, len: 1 }]));
    }

    #[test]
    fn a_large_request_is_one_run_when_there_is_one() {
        let mut alloc = Allocator::new(10_000);
        assert_eq!(alloc.take(5000), Some(vec![Run { disk: 0, len: 5000 }]));
        assert_eq!(alloc.take(5000), Some(vec![Run { disk: 5000, len: 5000 }]));
        assert_eq!(alloc.take(1), None);
        assert!(!alloc.set(Run { disk: 9_999, len: 2 }));
    }
}
