//! The text format of Prometheus, version 0.0.4.
//!
//! What must hold: all samples of a metric stand together behind its HELP and TYPE; a counter's name ends in `_total`;
//! buckets of a histogram are cumulative and end with `+Inf`; no label has values without bound.

use std::fmt::{Display, Write};

use catena_engine::Histogram;

/// What the answer says it is.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Names and values of labels.
pub(super) type Labels<'a> = &'a [(&'static str, &'a dyn Display)];

/// What a metric is.
#[derive(Clone, Copy)]
pub(super) enum Type {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// See [`Exposition::histogram`].
    Histogram,
    /// See [`Exposition::summary`].
    Summary,
}

/// A text that grows metric by metric.
#[derive(Default)]
pub(super) struct Exposition {
    text: String,
    name: String,
}

/// How a histogram's values become what is shown.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    /// Nanoseconds, shown in seconds.
    Nanoseconds,
    /// Anything else, shown as it is.
    Plain,
}

impl Exposition {
    /// Starts a metric; its samples follow.
    pub(super) fn metric(&mut self, name: &str, kind: Type, help: &str) {
        let kind = match kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
            Type::Summary => "summary",
        };
        self.name = name.to_owned();
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A counter or gauge with one sample.
    pub(super) fn single(&mut self, name: &str, kind: Type, help: &str, labels: Labels<'_>, value: impl Display) {
        self.metric(name, kind, help);
        self.sample(labels, value);
    }

    /// A sample of the metric started last.
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.sample_of("", labels, value);
    }

    /// A distribution as its buckets at powers of two, from `2^least` to `2^most`.
    pub(super) fn histogram(&mut self, labels: Labels<'_>, h: &Histogram, unit: Unit, (least, most): (u32, u32)) {
        let shown = |value: u64| match unit {
            Unit::Nanoseconds => value as f64 / 1e9,
            Unit::Plain => value as f64,
        };
        let buckets: Vec<(u64, u64)> = h.buckets().collect();
        for power in least..=most {
            let bound = (1u64 << power) - 1;
            let count: u64 = buckets.iter().take_while(|(upper, _)| *upper <= bound).map(|(_, count)| count).sum();
            self.bucket(labels, &shown(bound), count);
        }
        self.bucket(labels, &"+Inf", h.count());
        self.sample_of("_sum", labels, shown(h.sum()));
        self.sample_of("_count", labels, h.count());
    }

    /// A sum and a count of what was summed.
    pub(super) fn summary(&mut self, labels: Labels<'_>, sum: impl Display, count: u64) {
        self.sample_of("_sum", labels, sum);
        self.sample_of("_count", labels, count);
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.text
    }

    fn bucket(&mut self, labels: Labels<'_>, bound: &dyn Display, count: u64) {
        let with_bound: Vec<_> = labels.iter().copied().chain([("le", bound)]).collect();
        self.sample_of("_bucket", &with_bound, count);
    }

    fn sample_of(&mut self, suffix: &str, labels: Labels<'_>, value: impl Display) {
        let name = std::mem::take(&mut self.name);
        self.push(format_args!("{name}{suffix}"));
        for (n, (label, of)) in labels.iter().enumerate() {
            let of = of.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.push(format_args!("{}{label}=\"{of}\"", if n == 0 { '{' } else { ',' }));
        }
        self.push(format_args!("{} {value}\n", if labels.is_empty() { "" } else { "}" }));
        self.name = name;
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a string takes everything");
    }
}

/// The name of a counter of the state machine or the engine: its unit, if it is bytes, stands before `_total`.
pub(super) fn counter_name(part: &str, name: &str) -> String {
    match name.strip_prefix("bytes_") {
        Some(what) => format!("catena_{part}_{what}_bytes_total"),
        None => format!("catena_{part}_{name}_total"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_exact_at_powers_of_two() {
        let mut h = Histogram::default();
        [0, 1, 3, 4, 7, 8, 1_000_000].into_iter().for_each(|v| h.note(v));
        let mut e = Exposition::default();
        e.metric("catena_x", Type::Histogram, "a\nb");
        e.histogram(&[("target", &7)], &h, Unit::Plain, (1, 3));
        let expected = "# HELP catena_x a\\nb\n# TYPE catena_x histogram\ncatena_x_bucket{target=\"7\",le=\"1\"} 2\n\
                        catena_x_bucket{target=\"7\",le=\"3\"} 3\ncatena_x_bucket{target=\"7\",le=\"7\"} 5\n\
                        catena_x_bucket{target=\"7\",le=\"+Inf\"} 7\ncatena_x_sum{target=\"7\"} 1000023\n\
                        catena_x_count{target=\"7\"} 7\n";
        assert_eq!(e.finish(), expected);
    }

    #[test]
    fn labels_are_escaped() {
        let mut e = Exposition::default();
        e.single("catena_y", Type::Gauge, "y", &[("a", &"q\"\\\n"), ("b", &1)], 0.5);
        assert!(e.finish().ends_with("catena_y{a=\"q\\\"\\\\\\n\",b=\"1\"} 0.5\n"));
    }

    #[test]
    fn counters_of_bytes_name_their_unit() {
        assert_eq!(counter_name("engine", "bytes_read"), "catena_engine_read_bytes_total");
        assert_eq!(counter_name("replica", "sync_bytes"), "catena_replica_sync_bytes_total");
    }
}
