//! The command line: one file per command.

mod admin;
mod awaited;
mod chunk;
mod connect;
mod dev;
mod fsck;
mod get;
mod inspect;
mod ls;
mod manager;
mod node;
mod one_sided;
mod put;
mod rm;
mod security;
mod service;
mod stat;
mod status;
mod store_args;
mod target;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub(crate) use connect::{Manager, runtime};
pub(crate) use dev::{ShapeArgs, temporary_dir};
pub(crate) use security::SecurityArgs;
pub(crate) use service::{follow_parent, stop_signal};
pub(crate) use store_args::StoreArgs;
pub(crate) use target::sync_json;

use crate::fault::{EXIT_CODES, Result};

/// A strongly consistent, replicated chunk store.
#[derive(Debug, Parser)]
#[command(name = "catena", version, about, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Try `catena demo` for a guided tour, or `catena dev` for a cluster on this machine.")]
#[command(after_long_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A guided tour: a cluster in a temporary directory, writes explained replica by replica, a node killed and repaired
    Demo(crate::demo::Args),
    /// Run a whole cluster on this machine: a manager and some nodes as child processes
    Dev(dev::Args),
    /// Run a manager
    Manager(manager::Args),
    /// Run a storage node
    Node(node::Args),
    /// Set a cluster up, verify its data, watch it
    Admin(admin::Args),
    /// Health of the cluster in one screen; the exit code tells it too
    Status(status::Args),
    /// Everything about one target's store; start a scrub there
    Target(target::Args),
    /// Store a file as an object
    Put(put::Args),
    /// Fetch an object into a file
    Get(get::Args),
    /// Write an object to stdout
    Cat(get::CatArgs),
    /// List objects
    Ls(ls::Args),
    /// What is known of an object
    Stat(stat::Args),
    /// Remove objects
    Rm(rm::Args),
    /// Read and change single chunks, and see what each replica does
    Chunk(chunk::Args),
    /// Show what is in a target that no node has open
    Inspect(inspect::Args),
    /// Check a target that no node has open: every structure, and all data
    Fsck(fsck::Args),
    /// Measure throughput, latency and CPU, beside the raw limits of this machine
    Bench(crate::bench::Args),
}

impl Cli {
    /// Runs the command to its end.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let done = |()| ExitCode::SUCCESS;
        match self.command {
            Command::Demo(args) => crate::demo::run(args),
            Command::Dev(args) => dev::run(args).map(done),
            Command::Manager(args) => manager::run(args).map(done),
            Command::Node(args) => node::run(args).map(done),
            Command::Admin(args) => admin::run(args),
            Command::Status(args) => status::run(args),
            Command::Target(args) => target::run(args).map(done),
            Command::Put(args) => put::run(args).map(done),
            Command::Get(args) => get::run(args).map(done),
            Command::Cat(args) => get::cat(args).map(done),
            Command::Ls(args) => ls::run(args).map(done),
            Command::Stat(args) => stat::run(args).map(done),
            Command::Rm(args) => rm::run(args).map(done),
            Command::Chunk(args) => chunk::run(args).map(done),
            Command::Inspect(args) => inspect::run(args).map(done),
            Command::Fsck(args) => fsck::run(args),
            Command::Bench(args) => crate::bench::run(args).map(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &mut clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if !command.has_subcommands() && command.get_name() != "help" {
                let help = command.render_long_help().to_string();
                assert!(help.contains("Example"), "`{path} --help` has no example:\n{help}");
            }
            command.get_subcommands_mut().for_each(|sub| check(sub, &path));
        }
        check(&mut Cli::command(), "");
    }
}
