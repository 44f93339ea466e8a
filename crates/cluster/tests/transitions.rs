//! Runs every row of `transitions.md`. The rows may name members out of order where that reads better: a chain is put
//! in order before it is used.

use catena_cluster::{Facts, Life, TargetFacts, check_chain, next_chain};
use catena_types::{Chain, Member, PublicState};

const VER: u64 = 7;

fn state(letter: &str) -> (PublicState, bool) {
    match letter {
        "S" => (PublicState::Serving, false),
        "L" => (PublicState::LastSrv, false),
        "L*" => (PublicState::LastSrv, true),
        "Y" => (PublicState::Syncing, false),
        "W" => (PublicState::Waiting, false),
        "O" => (PublicState::Offline, false),
        other => panic!("unknown state {other:?}"),
    }
}

fn number(word: &str) -> (u32, &str) {
    let end = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    (word[..end].parse().unwrap_or_else(|_| panic!("{word:?} does not start with a target")), word[end..].trim())
}

fn members(text: &str) -> Vec<Member> {
    let member = |word| {
        let (target, letter) = number(word);
        let (state, chosen) = state(letter);
        Member { target, state: state as i32, chosen }
    };
    text.split_whitespace().map(member).collect()
}

fn facts(text: &str) -> Facts {
    text.split(',')
        .filter(|word| !word.trim().is_empty())
        .map(|word| {
            let (target, words) = number(word.trim());
            let mut f = TargetFacts { about: VER - 1, ..TargetFacts::default() };
            for word in words.split('+') {
                match word {
                    "alive" => f.life = Life::Alive,
                    "silent" => f.life = Life::Silent,
                    "out" => f.life = Life::Out,
                    "here" => f.about = VER,
                    "utd" => (f.about, f.up_to_date) = (VER, true),
                    "utd-old" => f.up_to_date = true,
                    "gave-up" => (f.about, f.sync_failed) = (VER, true),
                    "gave-up-old" => f.sync_failed = true,
                    "backing-off" => f.backing_off = true,
                    "other-uuid" => f.uuid_matches = false,
                    "leaving" => f.leaving = true,
                    "replaced" => f.replaced = true,
                    other => panic!("unknown fact {other:?}"),
                }
            }
            (target, f)
        })
        .collect()
}

#[test]
fn every_row_of_the_table() {
    let mut rows = 0;
    for (n, line) in include_str!("transitions.md").lines().enumerate() {
        let cells: Vec<_> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let row = line.starts_with('|') && !line.starts_with("|---") && cells[0] != "local";
        if !row {
            continue;
        }
        let [_, _, _, before, known, after, ver] = cells[..] else { panic!("line {}: {} cells", n + 1, cells.len()) };
        let mut chain = Chain { id: 1, chain_ver: VER, members: members(before) };
        chain.members.sort_by_key(|m| m.state());
        let expected = Chain { id: 1, chain_ver: VER + ver.parse::<u64>().expect("a number"), members: members(after) };
        let facts = facts(known);
        let replicas = chain.members.iter().filter(|m| facts.get(&m.target).is_none_or(|f| !f.leaving)).count();
        let got = next_chain(&chain, &facts, replicas).unwrap_or_else(|| chain.clone());
        assert_eq!(got, expected, "transitions.md:{}: {line}", n + 1);
        check_chain(&got).unwrap_or_else(|e| panic!("transitions.md:{}: {e}", n + 1));
        rows += 1;
    }
    assert!(rows >= 57, "only {rows} rows were read");
}
