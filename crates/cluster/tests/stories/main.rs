//! What happens to a cluster, told in virtual time: one story per file.

mod duplicate_node;
mod flapping;
mod kill_and_rejoin;
mod last_serving_set;
mod manager_restart;
mod moves;
mod normal_start;
mod partition;
mod registration;
mod slow_store;
mod stopped_and_failed;
mod sync_failure;
mod unreachable;
mod world;
