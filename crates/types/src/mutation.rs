//! Deliberate faults: what a canary of the simulator switches on to see whether a checker notices.
//!
//! [`mutations!`](crate::mutations) makes a crate's list of them. Each is a question asked at one line of the code that
//! ships; without the crate's feature `mutations` the answer is a constant `false`, and nothing of it is left.
#![cfg_attr(not(feature = "mutations"), allow(dead_code, unreachable_pub))]

/// Makes the `Mutation` of a crate: the list, the question `is`, and with the feature `mutations` the switch `set`.
#[macro_export]
macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A deliberate fault: one rule, switched off at one line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutation {
            $($(#[$doc])* $name,)*
        }

        impl Mutation {
            /// All of them.
            pub const ALL: &[Mutation] = &[$(Mutation::$name,)*];
        }

        #[cfg(feature = "mutations")]
        mod active {
            use std::cell::Cell;

            thread_local! {
                static ACTIVE: Cell<u128> = const { Cell::new(0) };
            }

            /// From now on this thread has exactly these faults.
            pub fn set(mutations: &[super::Mutation]) {
                ACTIVE.set(mutations.iter().fold(0, |bits, m| bits | 1 << *m as u32));
            }

            /// Whether this fault is there.
            pub(crate) fn is(mutation: super::Mutation) -> bool {
                ACTIVE.get() >> mutation as u32 & 1 == 1
            }
        }

        #[cfg(not(feature = "mutations"))]
        mod active {
            /// Whether this fault is there: never.
            #[inline(always)]
            pub(crate) const fn is(_: super::Mutation) -> bool {
                false
            }
        }

        pub(crate) use active::is;
        #[cfg(feature = "mutations")]
        pub use active::set;
    };
}

crate::mutations! {
    /// `delta`: what has changed since some version is applied to an older one.
    DeltaFromAnywhere,
}
