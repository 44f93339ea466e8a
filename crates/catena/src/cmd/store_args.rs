//! How targets that are made keep chunks, and what their acknowledgement means: options of several commands.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use catena_engine::{Durability, StoreKind};

/// How targets that are made keep chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoreArgs {
    /// How targets that are made keep chunks
    #[arg(long, value_enum, default_value_t = Store::Cow)]
    pub(crate) store: Store,
    /// What an acknowledgement of a target that is made means
    #[arg(long, value_enum, default_value_t = Promise::Flush)]
    pub(crate) durability: Promise,
}

/// See [`StoreKind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Store {
    /// Copy-on-write: an update writes its blocks to fresh space; best for most
    #[default]
    Cow,
    /// A fixed slot per chunk: steady layout, and small overwrites go through the journal
    InPlace,
}

/// See [`Durability`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Promise {
    /// On stable media at every serving replica
    #[default]
    Flush,
    /// Written at every serving replica, and flushed within 100 ms: a power cut of all of them loses the last moments
    Replicated,
}

impl From<Store> for StoreKind {
    fn from(store: Store) -> StoreKind {
        match store {
            Store::Cow => StoreKind::Cow,
            Store::InPlace => StoreKind::InPlace,
        }
    }
}

impl From<Promise> for Durability {
    fn from(promise: Promise) -> Durability {
        match promise {
            Promise::Flush => Durability::Flush,
            Promise::Replicated => Durability::Replicated,
        }
    }
}

impl StoreArgs {
    /// Whether an acknowledgement waits for the medium.
    pub(crate) fn flushes(self) -> bool {
        self.durability == Promise::Flush
    }

    /// As options of another command.
    pub(crate) fn options(self) -> [(&'static str, String); 2] {
        let word = |value: Option<clap::builder::PossibleValue>| value.map_or_else(String::new, |v| v.get_name().to_owned());
        [("--store", word(self.store.to_possible_value())), ("--durability", word(self.durability.to_possible_value()))]
    }
}
