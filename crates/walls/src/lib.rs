//! The walls between the layers, as checks on text: each rule takes source text and returns what breaks it.
//!
//! `tests/walls.rs` feeds them the repository. Every rule is also fed something bad on purpose, since a check that has
//! never failed proves nothing.

mod layers;
mod named;
mod places;
mod source;
mod strip;

pub use layers::{check_dependency, check_name};
pub use named::{exists, tests_in, tests_named};
pub use places::{Place, defines, places_named};
pub use source::{Violation, check_source, is_test_file};
pub use strip::strip;
