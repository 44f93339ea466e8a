//! Who may know whom: the dependency law between the crates of the workspace.

/// Each crate and the crates of this workspace that it may depend on. Dev-dependencies may be wider.
const LAW: &[(&str, &[&str])] = &[
    ("catena-types", &[]),
    ("catena-arena", &[]),
    ("catena-walls", &[]),
    ("catena-wire", &["types"]),
    ("catena-chain", &["types", "wire"]),
    ("catena-cluster", &["types", "wire"]),
    ("catena-engine", &["types", "arena"]),
    ("catena-net", &["types", "wire", "arena"]),
    ("catena-node", &["types", "wire", "chain", "engine", "net", "arena"]),
    ("catena-manager", &["types", "wire", "cluster", "net", "arena"]),
    ("catena-client", &["types", "wire", "net", "arena", "chain"]),
    ("catena-rma", &["net", "arena"]),
    ("catena-sim", &["types", "wire", "chain", "cluster", "engine", "client", "arena"]),
    ("catena", &["types", "wire", "chain", "cluster", "engine", "net", "arena", "node", "manager", "client", "rma"]),
];

/// Crates outside the workspace that bring a clock, a runtime or randomness, and the pure crates that must not have them.
const PURE: &[&str] = &["catena-types", "catena-wire", "catena-chain", "catena-cluster"];
const IMPURE: &[&str] = &["tokio", "rand", "getrandom", "rustix", "libc", "io-uring", "mio", "socket2", "ahash", "hashbrown"];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["common", "util", "utils", "helper", "helpers", "core", "misc", "shared", "base", "lib"];

/// What is wrong with `from` depending on `to` (package names), if anything.
pub fn check_dependency(from: &str, to: &str) -> Option<String> {
    if PURE.contains(&from) && IMPURE.contains(&to) {
        return Some(format!("{from} is pure and must not depend on {to}"));
    }
    let inside = to == "catena" || to.starts_with("catena-");
    if !inside {
        return None;
    }
    let Some((_, allowed)) = LAW.iter().find(|(name, _)| *name == from) else {
        return Some(format!("{from} is not in the dependency law (crates/walls/src/layers.rs): add it with its reason"));
    };
    let short = to.strip_prefix("catena-").unwrap_or(to);
    let listed = allowed.join(", ");
    (!allowed.contains(&short)).then(|| format!("{from} must not depend on {to}; it may depend on: {listed}"))
}

/// What is wrong with a crate being called `name`, if anything.
pub fn check_name(name: &str) -> Option<String> {
    let short = name.strip_prefix("catena-").unwrap_or(name);
    EMPTY_NAMES.contains(&short).then(|| format!("a crate called {name} says nothing about what is inside"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_law_can_be_broken() {
        assert!(check_dependency("catena-types", "catena-wire").is_some());
        assert!(check_dependency("catena-chain", "catena-engine").is_some());
        assert!(check_dependency("catena-chain", "tokio").is_some());
        assert!(check_dependency("catena-engine", "catena-net").is_some());
        assert!(check_dependency("catena-new", "catena-types").is_some());
        assert!(check_dependency("catena-node", "catena").is_some());
        assert!(check_name("catena-common").is_some() && check_name("util").is_some());
    }

    #[test]
    fn the_law_can_be_kept() {
        assert_eq!(check_dependency("catena-chain", "catena-wire"), None);
        assert_eq!(check_dependency("catena-node", "tokio"), None);
        assert_eq!(check_dependency("catena", "catena-manager"), None);
        assert_eq!(check_name("catena-engine"), None);
    }
}
