//! `catena-scale`: large clusters on paper. Prints the tables of docs/scaling.md.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use catena_sim::scale::blast::{Failing, blast, partners};
use catena_sim::scale::flow::{recovery, throughput};
use catena_sim::scale::load::Cluster;
use catena_sim::scale::{Hardware, Placement, Shape, chains};
use rustix::time::{ClockId, clock_gettime};

const USAGE: &str = "usage:
  catena-scale flow    throughput, what stops more of it, and the time until a lost node's replicas are there again
  catena-scale blast   data hit when nodes or disks fail together, for this placement and two others
  catena-scale manager processor time and bytes of the real manager, and the routing that travels
  catena-scale grow    processor time of the real manager to say what rebalancing moves to half as many nodes again

options, with their defaults:
  --nodes 10,30,100,300,1000    --disks 16    --per-disk 1 (targets)    --replicas 3    --spare 0 (targets of each node)
  --disk-tb 8   --fill 60 (%)   --disk-write 2.0   --disk-read 4.0   --network 12.5 (GB/s of a disk, of a node)
  --cores 32    --write-ms 0.65 --read-ms 0.42 (processor time of one replica per MiB; docs/benchmarks.md)
  --moves 4     (replicas that move at a time)";

/// Seed of the random placement.
const SEED: u64 = 1;
const MIB: f64 = 1_048_576.0;

struct Args {
    command: String,
    nodes: Vec<u32>,
    shape: Shape,
    hardware: Hardware,
    moves: u32,
}

fn parse() -> Result<Args, String> {
    let mut words = std::env::args().skip(1);
    let command = words.next().ok_or("no command given")?;
    let shape = Shape { nodes: 0, disks: 16, per_disk: 1, replicas: 3, spare: 0 };
    let hardware = Hardware {
        disk_bytes: 8e12,
        fill: 0.6,
        disk_write: 2.0e9,
        disk_read: 4.0e9,
        network: 12.5e9,
        cores: 32.0,
        write_cost: 0.65e-3 / MIB,
        read_cost: 0.42e-3 / MIB,
    };
    let mut args = Args { command, nodes: vec![10, 30, 100, 300, 1_000], shape, hardware, moves: 4 };
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let bad = || format!("{word} {value}: not a number");
        let count = || value.parse::<u32>().map_err(|_| bad());
        let number = || value.parse::<f64>().map_err(|_| bad());
        match word.as_str() {
            "--nodes" => args.nodes = value.split(',').map(|n| n.parse().map_err(|_| bad())).collect::<Result<_, _>>()?,
            "--disks" => args.shape.disks = count()?,
            "--per-disk" => args.shape.per_disk = count()?,
            "--replicas" => args.shape.replicas = count()? as usize,
            "--spare" => args.shape.spare = count()?,
            "--moves" => args.moves = count()?,
            "--disk-tb" => args.hardware.disk_bytes = number()? * 1e12,
            "--fill" => args.hardware.fill = number()? / 100.0,
            "--disk-write" => args.hardware.disk_write = number()? * 1e9,
            "--disk-read" => args.hardware.disk_read = number()? * 1e9,
            "--network" => args.hardware.network = number()? * 1e9,
            "--cores" => args.hardware.cores = number()?,
            "--write-ms" => args.hardware.write_cost = number()? * 1e-3 / MIB,
            "--read-ms" => args.hardware.read_cost = number()? * 1e-3 / MIB,
            _ => return Err(format!("unknown option {word}")),
        }
    }
    check(args)
}

fn check(args: Args) -> Result<Args, String> {
    let Shape { disks, per_disk, replicas, spare, .. } = args.shape;
    let counts = [disks, per_disk, replicas as u32, args.moves];
    if counts.contains(&0) || spare >= disks * per_disk || args.nodes.iter().any(|&n| n < 2 * replicas as u32) {
        return Err("nothing may be 0, every node uses some targets, and there are twice as many nodes as replicas".to_owned());
    }
    Ok(args)
}

fn main() -> ExitCode {
    let args = match parse() {
        Ok(args) => args,
        Err(e) => {
            eprintln!("{e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match args.command.as_str() {
        "flow" => flow(&args),
        "blast" => blasts(&args),
        "manager" => manager(&args),
        "grow" => grow(&args),
        other => {
            eprintln!("unknown command {other}\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn flow(args: &Args) {
    println!(
        "| nodes | chains | write GB/s | stopped by | read GB/s | stopped by | most heads / mean | refill of a node | stopped by | replicas moved, {} at a time | all at once | stopped by |",
        args.moves
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for &nodes in &args.nodes {
        let shape = Shape { nodes, ..args.shape };
        let chains = chains(&shape, Placement::Even, SEED);
        let most = throughput(&shape, &chains, &args.hardware);
        let back = recovery(&shape, &chains, &args.hardware, args.moves);
        println!(
            "| {nodes} | {} | {:.0} | {} | {:.0} | {} | {:.2} | {} | {} | {} | {} | {} |",
            chains.len(),
            most.write.0 / 1e9,
            most.write.1,
            most.read.0 / 1e9,
            most.read.1,
            most.heads,
            minutes(back.refill.0),
            back.refill.1,
            minutes(back.moves.0),
            minutes(back.all_at_once.0),
            back.all_at_once.1,
        );
    }
}

fn blasts(args: &Args) {
    println!(
        "| nodes | placement | partners of a node | failed | data with fewer replicas | chance that data is out | share out then, mean | worst |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for &nodes in &args.nodes {
        let shape = Shape { nodes, ..args.shape };
        for (name, placement) in [("ours", Placement::Even), ("groups", Placement::Groups), ("random", Placement::Random)] {
            let chains = chains(&shape, placement, SEED);
            for (what, failing, of) in [("nodes", Failing::Nodes, nodes), ("disks", Failing::Disks, nodes * shape.disks)] {
                for failed in 1..=shape.replicas {
                    let b = blast(&chains, failing, of.into(), failed);
                    println!(
                        "| {nodes} | {name} | {} | {failed} {what} | {} | {} | {} | {} |",
                        partners(&chains, 0),
                        percent(b.degraded),
                        percent(b.chance),
                        percent(b.lost),
                        percent(b.worst),
                    );
                }
            }
        }
    }
}

fn manager(args: &Args) {
    println!(
        "| nodes | targets | chain table made in | heartbeats/s | bytes in, out | received MB/s | µs each | processor | tick ms | routing, all | a node lost: versions | delta bytes | decided in ms | told to one in µs | to all in ms |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for &nodes in &args.nodes {
        let shape = Shape { nodes, ..args.shape };
        let (mut cluster, load) = Cluster::start(shape, cpu_seconds);
        let event = cluster.lose(1);
        let rate = f64::from(nodes) / 0.3;
        // A tick every tenth of a lease of 1.5 s.
        let busy = rate * load.heartbeat + load.tick / 0.15;
        println!(
            "| {nodes} | {} | {:.0} ms | {rate:.0} | {}, {} | {:.2} | {:.1} | {} | {:.2} | {:.1} KB | {} | {} | {:.1} | {:.0} | {:.1} |",
            nodes * shape.targets(),
            load.init * 1e3,
            load.heartbeat_bytes.0,
            load.heartbeat_bytes.1,
            rate * load.heartbeat_bytes.0 as f64 / 1e6,
            load.heartbeat * 1e6,
            percent(busy),
            load.tick * 1e3,
            load.full_bytes as f64 / 1e3,
            event.versions,
            event.delta_bytes,
            event.decide * 1e3,
            event.tell * 1e6,
            event.tell * 1e3 * f64::from(nodes),
        );
    }
}

fn grow(args: &Args) {
    println!("| nodes | empty ones beside them | moves named | in ms | each in ms |");
    println!("|---|---|---|---|---|");
    for &nodes in &args.nodes {
        let shape = Shape { nodes, ..args.shape };
        let empty = nodes / 2;
        let (moves, spent) = Cluster::start(shape, cpu_seconds).0.grow(empty);
        let ms = spent * 1e3;
        println!("| {nodes} | {empty} | {moves} | {ms:.1} | {:.2} |", ms / moves.max(1) as f64);
    }
}

fn minutes(seconds: f64) -> String {
    if seconds < 7_200.0 { format!("{:.0} min", seconds / 60.0) } else { format!("{:.1} h", seconds / 3_600.0) }
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0".to_owned(),
        p if p < 0.01 => format!("{p:.1e} %"),
        p => format!("{p:.2} %"),
    }
}

/// Processor seconds of this thread.
fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
