//! Tests named in the documentation: each must exist, or the table promises something nobody checks.

/// Names in the last column of the Markdown tables whose last heading is "test" or "tests": words in backquotes. One that
/// ends in `*` stands for all that begin so.
pub fn tests_named(markdown: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut in_table = false;
    let mut before = "";
    for line in markdown.lines() {
        let last = last_cell(line);
        match last {
            None => in_table = false,
            Some(_) if last_cell(before).is_none() => in_table = matches!(last, Some("test" | "tests")),
            Some(cell) if in_table => names.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned)),
            Some(_) => {}
        }
        before = line;
    }
    names
}

fn last_cell(line: &str) -> Option<&str> {
    let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(row.rsplit('|').next().unwrap_or(row).trim())
}

/// Names of the tests in a source file.
pub fn tests_in(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        marked |= line.starts_with("#[test") || (line.starts_with("#[") && line.contains("::test"));
        let name = line.split("fn ").nth(1).and_then(|rest| rest.split(['(', '<']).next());
        if let Some(name) = name.filter(|_| marked && !line.starts_with("//")) {
            names.push(name.to_owned());
            marked = false;
        }
    }
    names
}

/// Whether a name of the documentation is one of these tests.
pub fn exists(name: &str, tests: &[String]) -> bool {
    match name.strip_suffix('*') {
        Some(start) => tests.iter().any(|test| test.starts_with(start)),
        None => tests.iter().any(|test| test == name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_tables_of_tests_only() {
        let text = "`no_test`\n| case | where |\n|---|---|\n| a | `file.rs` |\n\n| case `x` | test |\n|---|---|\n\
                    | b `c` | `one`, `two_*` and more |\n\n| d | `three` |\n";
        assert_eq!(tests_named(text), ["one", "two_*"]);
    }

    #[test]
    fn a_name_that_is_not_there_is_noticed() {
        let source =
            "#[test]\nfn one() {}\nfn not_a_test() {}\n#[tokio::test(flavor = \"x\")]\n#[cfg(unix)]\nasync fn two_b() {}\n";
        let tests = tests_in(source);
        assert_eq!(tests, ["one", "two_b"]);
        assert!(exists("one", &tests) && exists("two_*", &tests));
        assert!(!exists("not_a_test", &tests) && !exists("three_*", &tests));
    }
}
