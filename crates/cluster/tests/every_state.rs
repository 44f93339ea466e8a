//! Every chain of one to four members under everything that can be known of them, with one of them leaving or none, and
//! what must hold of each step.

use std::collections::{BTreeMap, BTreeSet};

use catena_cluster::{Facts, Life, TargetFacts, check_chain, next_chain, with_member, without_member};
use catena_types::{Chain, Member, PublicState};

const VER: u64 = 5;
const PLACES: [(PublicState, bool); 6] = [
    (PublicState::Serving, false),
    (PublicState::LastSrv, false),
    (PublicState::LastSrv, true),
    (PublicState::Syncing, false),
    (PublicState::Waiting, false),
    (PublicState::Offline, false),
];

/// What can be known of one target as far as moves go: the rest is left as it usually is.
fn some_facts() -> Vec<TargetFacts> {
    let usual = |f: &TargetFacts| !f.backing_off && (!f.sync_failed || f.about == VER) && (!f.up_to_date || f.about == VER);
    all_facts().into_iter().filter(usual).collect()
}

/// Everything that can be known of one target. "Up to date" without "about" is a stale report.
fn all_facts() -> Vec<TargetFacts> {
    let mut all = Vec::new();
    for life in [Life::Alive, Life::Silent, Life::Out] {
        for bits in 0..16_u8 {
            let bit = |n: u8| bits & (1 << n) != 0;
            all.push(TargetFacts {
                life,
                about: if bit(0) { VER } else { VER - 1 },
                up_to_date: bit(1),
                sync_failed: bit(2),
                backing_off: bit(3),
                uuid_matches: true,
                leaving: false,
                replaced: false,
            });
        }
    }
    all
}

/// Every chain of `n` members that keeps the rules; which target has which place does not matter to them.
fn all_chains(n: u32) -> Vec<Chain> {
    let mut chains = vec![Vec::new()];
    for target in 1..=n {
        let grow = |m: &Vec<Member>| {
            let m = m.clone();
            PLACES.map(|(state, chosen)| {
                let mut m = m.clone();
                m.push(Member { target, state: state as i32, chosen });
                m
            })
        };
        chains = chains.iter().flat_map(grow).collect();
    }
    let chains = chains.into_iter().map(|members| Chain { id: 1, chain_ver: VER, members });
    chains.filter(|c| check_chain(c).is_ok()).collect()
}

fn set(chain: &Chain, state: PublicState) -> BTreeSet<u32> {
    chain.in_state(state).collect()
}

fn weighty(chain: &Chain) -> Vec<Member> {
    chain.members.iter().copied().filter(|m| m.state() <= PublicState::Syncing).collect()
}

/// What must hold of the step `a` → `b` of a chain that is to have so many replicas.
fn check_step(a: &Chain, facts: &Facts, replicas: usize, b: &Chain) {
    let told = || format!("{a:?}\n{facts:?}\n{b:?}");
    check_chain(b).unwrap_or_else(|e| panic!("{e}\n{}", told()));
    let ids = |c: &Chain| c.members.iter().map(|m| m.target).collect::<BTreeSet<_>>();
    assert!(ids(b).is_subset(&ids(a)), "members found: {}", told());
    for gone in ids(a).difference(&ids(b)) {
        assert!(facts[gone].leaving, "{gone} lost: {}", told());
        assert!(b.serving().count() >= replicas || facts[gone].replaced, "{gone} left a chain that is not full: {}", told());
    }
    assert_eq!(b.chain_ver - a.chain_ver, u64::from(weighty(a) != weighty(b)), "version: {}", told());
    let (was, is) = (set(a, PublicState::Serving), set(b, PublicState::Serving));
    let here = |t: &u32| facts[t].about == VER && facts[t].life == Life::Alive;
    let chosen = |c: &Chain| c.members.iter().find(|m| m.chosen).map(|m| m.target);
    for t in is.difference(&was) {
        let synced = a.syncing() == Some(*t) && here(t) && facts[t].up_to_date;
        assert!(synced || (chosen(a) == Some(*t) && here(t)), "{t} became SERVING without having everything: {}", told());
    }
    for t in was.difference(&is) {
        assert_eq!(facts[t].life, Life::Out, "{t} may be serving and was removed: {}", told());
        assert!(was.iter().all(|t| facts[t].life != Life::Silent), "removed one by one: {}", told());
    }
    let stay = was.intersection(&is).copied().collect::<Vec<_>>();
    let order = |c: &Chain| c.serving().filter(|t| stay.contains(t)).collect::<Vec<_>>();
    assert_eq!(order(a), order(b), "reordered: {}", told());
    let (last_was, last_is) = (set(a, PublicState::LastSrv), set(b, PublicState::LastSrv));
    if !last_is.is_empty() {
        let whole = if last_was.is_empty() { &was } else { &last_was };
        assert_eq!(&last_is, whole, "the last serving set is everybody who served: {}", told());
    } else if !last_was.is_empty() {
        assert!(is.is_subset(&last_was), "the set was left to somebody else: {}", told());
    }
    if chosen(b) != chosen(a)
        && let Some(t) = chosen(b)
    {
        assert_eq!(facts[&t].life, Life::Alive, "{}", told());
    }
    if let Some(t) = b.syncing().filter(|t| a.syncing() != Some(*t)) {
        assert!(facts[&t].life == Life::Alive && !facts[&t].backing_off, "{}", told());
    }
}

fn check_all(n: u32) -> (usize, u64) {
    let (chains, known) = (all_chains(n), all_facts());
    let (mut evaluations, count) = (0, known.len());
    for chain in &chains {
        for code in 0..count.pow(n) {
            let fact = |t: u32| (t, known[code / count.pow(t - 1) % count]);
            let facts: Facts = (1..=n).map(fact).collect();
            // A step that is not taken keeps what held before it.
            if let Some(next) = next_chain(chain, &facts, n as usize) {
                assert_ne!(&next, chain, "a change that is none: {facts:?}");
                check_step(chain, &facts, n as usize, &next);
            }
            evaluations += 1;
        }
    }
    (chains.len(), evaluations)
}

#[test]
fn every_state_of_one_and_two() {
    assert_eq!(check_all(1), (3, 3 * 48));
    assert_eq!(check_all(2), (11, 11 * 48 * 48));
}

#[test]
fn every_state_of_three() {
    assert_eq!(check_all(3), (CHAINS_OF_THREE, CHAINS_OF_THREE as u64 * 48 * 48 * 48));
}

/// With one member leaving, in a chain that is to have any number of replicas up to those of all the others.
fn check_leaving(n: u32) -> u64 {
    let (mut known, mut evaluations) = (some_facts(), 0);
    if n == 4 {
        // Seconds, not a minute: what a source has given up is told by three members.
        known.retain(|f| !f.sync_failed);
    }
    let count = known.len();
    for chain in &all_chains(n) {
        for code in 0..count.pow(n) * n as usize {
            let leaving = (code / count.pow(n)) as u32 + 1;
            let fact = |t: u32| {
                let known = known[code / count.pow(t - 1) % count];
                let replaced = t == leaving && known.life == Life::Out && known.up_to_date;
                (t, TargetFacts { leaving: t == leaving, replaced, ..known })
            };
            let facts: Facts = (1..=n).map(fact).collect();
            for replicas in if n == 4 { 3..=3 } else { 1..=n as usize - 1 } {
                if let Some(next) = next_chain(chain, &facts, replicas) {
                    check_step(chain, &facts, replicas, &next);
                }
                evaluations += 1;
            }
        }
    }
    evaluations
}

#[test]
fn every_state_with_a_member_leaving() {
    for n in 2..=4 {
        assert!(check_leaving(n) > 1_000);
    }
}

/// A member is added and taken away: nothing else changes, and nobody who may be needed goes.
#[test]
fn every_chain_with_a_member_more_or_less() {
    for chain in (1..=3).flat_map(all_chains) {
        let more = with_member(&chain, 9, 40).expect("a new member");
        check_chain(&more).expect("rules of a chain");
        assert_eq!((more.chain_ver, more.state_of(9)), (41, Some(PublicState::Offline)), "above every version of any chain");
        assert_eq!(with_member(&more, 9, 41), None, "twice");
        assert_eq!(without_member(&more, 9), Some(Chain { chain_ver: 41, ..chain.clone() }));
        for m in &chain.members {
            let needed = matches!(m.state(), PublicState::Serving | PublicState::LastSrv);
            let less = without_member(&chain, m.target);
            assert_eq!(less.is_none(), needed, "{chain:?}");
            let Some(less) = less else { continue };
            check_chain(&less).expect("rules of a chain");
            assert_eq!(less.chain_ver - chain.chain_ver, u64::from(m.state() == PublicState::Syncing));
            assert_eq!((less.members.len(), less.state_of(m.target)), (chain.members.len() - 1, None));
        }
    }
}

/// Chains of three members that keep the rules.
const CHAINS_OF_THREE: usize = 25;

/// Everybody is back and does what it should: from every state the chain becomes fully SERVING, by itself.
#[test]
fn every_state_heals() {
    for n in 1..=3 {
        for start in all_chains(n) {
            let mut chain = start.clone();
            for _ in 0..16 {
                let ver = chain.chain_ver;
                let good = TargetFacts { life: Life::Alive, about: ver, up_to_date: true, ..TargetFacts::default() };
                let facts: BTreeMap<_, _> = (1..=n).map(|t| (t, good)).collect();
                let Some(next) = next_chain(&chain, &facts, n as usize) else { break };
                chain = next;
            }
            assert_eq!(chain.serving().count(), n as usize, "{start:?} ended as {chain:?}");
        }
    }
}

/// Facts that do not change change a chain only so often: there is no endless back and forth.
#[test]
fn every_state_settles() {
    // Backing off only holds syncs back: without it there is more that could move.
    let known: Vec<_> = all_facts().into_iter().filter(|f| !f.backing_off).collect();
    for start in all_chains(3) {
        for code in 0..known.len().pow(3) {
            let fact = |t: u32| (t, known[code / known.len().pow(t - 1) % known.len()]);
            let facts: Facts = (1..=3).map(fact).collect();
            let mut chain = start.clone();
            let mut steps = 0;
            while let Some(next) = next_chain(&chain, &facts, 3) {
                chain = next;
                steps += 1;
                assert!(steps <= 4, "{start:?} does not settle under {facts:?}");
            }
        }
    }
}
