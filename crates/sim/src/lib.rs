//! Deterministic world and checkers.
