//! Files and functions named in the documentation: where a rule is said to be, it must be.

/// A file of the repository, and names that are defined in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From the root of the repository.
    pub file: String,
    /// Functions or types.
    pub names: Vec<String>,
}

/// Places in the last column of the Markdown tables whose last heading is "where": words in backquotes. A file without a
/// directory lies beside the one before it in the row, the first one in `home`.
pub fn places_named(markdown: &str, home: &str) -> Vec<Place> {
    let rows = markdown.lines().map(|line| Some(line.trim().strip_prefix('|')?.strip_suffix('|')?.rsplit('|').next()?.trim()));
    let mut places = Vec::new();
    let (mut in_table, mut before) = (false, None);
    for last in rows {
        match last {
            None => in_table = false,
            Some(heading) if before.is_none() => in_table = heading == "where",
            Some(cell) if in_table => places.extend(places_in(cell, home)),
            Some(_) => {}
        }
        before = last;
    }
    places
}

fn places_in(cell: &str, home: &str) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let mut dir = home.to_owned();
    for word in cell.split('`').skip(1).step_by(2) {
        if let Some((parent, _)) = word.rsplit_once('/') {
            dir = parent.to_owned();
            places.push(Place { file: word.to_owned(), names: Vec::new() });
        } else if word.ends_with(".rs") {
            places.push(Place { file: format!("{dir}/{word}"), names: Vec::new() });
        } else if let Some(place) = places.last_mut() {
            place.names.push(word.to_owned());
        }
    }
    places
}

/// Whether the source defines something of that name.
pub fn defines(source: &str, name: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    let kinds = ["fn ", "struct ", "enum ", "trait ", "const "];
    kinds.iter().any(|kind| source.split(&format!("{kind}{name}")).skip(1).any(ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_from_tables_of_places_only() {
        let text = "| file | what |\n|---|---|\n| `no.rs` | `f` |\n\n| rule | where |\n|---|---|\n| `x` | `a.rs` `f`, `g`; `b.rs` |\n\
                    | y | `d/c.rs`; `e.rs` `h` |\n";
        let place = |file: &str, names: &[&str]| Place {
            file: file.to_owned(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let wanted = [place("home/a.rs", &["f", "g"]), place("home/b.rs", &[]), place("d/c.rs", &[]), place("d/e.rs", &["h"])];
        assert_eq!(places_named(text, "home"), wanted);
    }

    #[test]
    fn what_is_not_there_is_noticed() {
        let source = "pub(super) fn one(&self) {}\nstruct Two<P>;\nfn three_more() {}\ncall_four();\n";
        assert!(defines(source, "one") && defines(source, "Two"));
        assert!(!defines(source, "three") && !defines(source, "four"));
    }
}
