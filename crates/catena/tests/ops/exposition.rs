//! A strict reader of the text format of Prometheus: whatever the format or its naming conventions forbid is an error.

use std::collections::{BTreeMap, BTreeSet};

/// A metric as read.
#[derive(Debug, Default)]
pub(crate) struct Metric {
    /// counter, gauge, histogram or summary.
    pub(crate) kind: String,
    /// Name and labels of each sample, as they stand in the text, and its value.
    pub(crate) samples: BTreeMap<String, f64>,
}

/// Reads a whole answer.
pub(crate) fn read(text: &str) -> Result<BTreeMap<String, Metric>, String> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let (mut name, mut typed) = (String::new(), true);
    if !text.ends_with('\n') {
        return Err("does not end with a line end".to_owned());
    }
    for line in text.lines() {
        let wrong = |what: &str| format!("{what}: {line}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (of, help) = rest.split_once(' ').ok_or(wrong("no help"))?;
            check_name(of).map_err(|e| wrong(&e))?;
            if help.trim().is_empty() || metrics.contains_key(of) || !typed {
                return Err(wrong("no help, or a metric in two places, or no TYPE before"));
            }
            (name, typed) = (of.to_owned(), false);
            metrics.insert(name.clone(), Metric::default());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (of, kind) = rest.split_once(' ').ok_or(wrong("no type"))?;
            if of != name || typed || !["counter", "gauge", "histogram", "summary"].contains(&kind) {
                return Err(wrong("TYPE without its HELP, or unknown"));
            }
            if (kind == "counter") != of.ends_with("_total") {
                return Err(wrong("counters, and only they, end in _total"));
            }
            typed = true;
            metrics.entry(name.clone()).or_default().kind = kind.to_owned();
        } else {
            let metric = metrics.get_mut(&name).filter(|_| typed).ok_or(wrong("a sample without HELP and TYPE"))?;
            let (id, value) = sample(line, &name, &metric.kind).map_err(|e| wrong(&e))?;
            if metric.samples.insert(id, value).is_some() {
                return Err(wrong("twice"));
            }
        }
    }
    metrics.values().filter(|m| m.kind == "histogram").try_for_each(check_histogram)?;
    Ok(metrics)
}

fn check_name(name: &str) -> Result<(), String> {
    let good = name.bytes().enumerate().all(|(n, b)| b.is_ascii_lowercase() || b == b'_' || (n > 0 && b.is_ascii_digit()));
    if name.is_empty() || !good { Err(format!("`{name}` is no name")) } else { Ok(()) }
}

/// Name with labels, and value.
fn sample(line: &str, metric: &str, kind: &str) -> Result<(String, f64), String> {
    let (id, value) = line.rsplit_once(' ').ok_or("no value")?;
    let value: f64 = value.parse().map_err(|_| "not a number")?;
    if !value.is_finite() || (kind != "gauge" && value < 0.0) {
        return Err("negative or not finite".to_owned());
    }
    let (name, labels) = match id.split_once('{') {
        Some((name, labels)) => (name, read_labels(labels.strip_suffix('}').ok_or("labels do not end")?)?),
        None => (id, BTreeMap::new()),
    };
    let suffix = name.strip_prefix(metric).ok_or("a sample of another metric")?;
    let allowed: &[&str] = match kind {
        "histogram" => &["_bucket", "_sum", "_count"],
        "summary" => &["_sum", "_count"],
        _ => &[""],
    };
    if !allowed.contains(&suffix) || (suffix == "_bucket") != labels.contains_key("le") {
        return Err("not a sample of such a metric".to_owned());
    }
    let bounded = ["node", "shard", "target", "op", "state", "outcome", "version", "le"];
    if let Some(label) = labels.keys().find(|l| !bounded.contains(&l.as_str())) {
        return Err(format!("`{label}` may have any number of values"));
    }
    Ok((id.to_owned(), value))
}

fn read_labels(mut text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (label, rest) = text.split_once("=\"").ok_or("a label without a value")?;
        check_name(label)?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next().ok_or("a value does not end")? {
                (at, '"') => break at,
                (_, '\\') => match chars.next() {
                    Some((_, c @ ('\\' | '"' | 'n'))) => value.push(c),
                    _ => return Err("an unknown escape".to_owned()),
                },
                (_, c) => value.push(c),
            }
        };
        if labels.insert(label.to_owned(), value).is_some() {
            return Err("a label twice".to_owned());
        }
        text = &rest[end + 1..];
        text = match text.strip_prefix(',') {
            Some(rest) if !rest.is_empty() => rest,
            None if text.is_empty() => text,
            _ => return Err("labels are not separated by one comma".to_owned()),
        };
    }
    Ok(labels)
}

/// Buckets grow with their bounds, the last is `+Inf` and equals the count.
fn check_histogram(metric: &Metric) -> Result<(), String> {
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts = BTreeSet::new();
    for (id, value) in &metric.samples {
        if let Some((before, bound)) = id.split_once("le=\"") {
            let bound = bound.trim_end_matches("\"}").replace("+Inf", "inf").parse().map_err(|_| format!("a bound: {id}"))?;
            series.entry(before.trim_end_matches(['{', ',']).replace("_bucket", "")).or_default().push((bound, *value));
        } else if id.contains("_count") {
            counts.insert((id.replace("_count", "").trim_end_matches('}').to_owned(), value.to_bits()));
        }
    }
    for (of, mut buckets) in series {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let last = buckets.last().copied().unwrap_or_default();
        if buckets.windows(2).any(|w| w[0].1 > w[1].1) || last.0 != f64::INFINITY {
            return Err(format!("buckets are not cumulative up to +Inf: {of}"));
        }
        if !counts.contains(&(of.clone(), last.1.to_bits())) {
            return Err(format!("the last bucket is not the count: {of}"));
        }
    }
    Ok(())
}

#[test]
fn the_reader_is_strict() {
    let good = "# HELP a_total A.\n# TYPE a_total counter\na_total{node=\"1\"} 3\na_total{node=\"2\"} 3\n";
    assert_eq!(read(good).map(|m| m["a_total"].samples.len()), Ok(2));
    for (bad, what) in [
        ("a 1\n", "without HELP"),
        ("# HELP a A.\n# TYPE a counter\na 1\n", "_total"),
        ("# HELP a A.\n# TYPE a gauge\nb 1\n", "another metric"),
        ("# HELP a A.\n# TYPE a gauge\na 1\na 1\n", "twice"),
        ("# HELP a A.\n# TYPE a gauge\na{node=\"1} 1\n", "does not end"),
        ("# HELP a A.\n# TYPE a gauge\na{key=\"1\"} 1\n", "any number"),
        ("# HELP a A.\n# TYPE a gauge\na x\n", "not a number"),
        ("# HELP a A.\n# TYPE a gauge\na 1", "line end"),
        ("# HELP A A.\n# TYPE A gauge\n", "no name"),
        ("# HELP a A.\n# TYPE a gauge\n# HELP b B.\n# TYPE b gauge\n# HELP a A.\n", "two places"),
        ("# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n", "cumulative"),
        ("# HELP a A.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n", "the count"),
    ] {
        let said = read(bad).expect_err(bad);
        assert!(said.contains(what), "{bad}: {said}");
    }
}
