//! Rust source without what is not code: comments and the contents of literals become spaces, lines stay where they are.

/// Replaces comments and the insides of string and character literals by spaces. Line numbers do not change.
pub fn strip(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match skipped(&chars, at) {
            Some(end) => end,
            None => {
                out.push(chars[at]);
                at += 1;
                continue;
            }
        };
        out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `None` if code goes on.
fn skipped(chars: &[char], at: usize) -> Option<usize> {
    let next = chars.get(at + 1).copied();
    match (chars[at], next) {
        ('/', Some('/')) => Some(find(chars, at, |w| w == '\n')),
        ('/', Some('*')) => Some(block_comment(chars, at)),
        ('"', _) => Some(quoted(chars, at, '"')),
        ('r', Some('"' | '#')) if !follows_word(chars, at) => raw_string(chars, at),
        ('b', Some('r')) if !follows_word(chars, at) => raw_string(chars, at + 1),
        ('\'', Some('\\')) => Some(quoted(chars, at, '\'')),
        ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => Some(at + 3),
        _ => None,
    }
}

fn follows_word(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

fn find(chars: &[char], from: usize, stop: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|&i| stop(chars[i])).unwrap_or(chars.len())
}

fn quoted(chars: &[char], open: usize, quote: char) -> usize {
    let mut at = open + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// Block comments nest.
fn block_comment(chars: &[char], open: usize) -> usize {
    let (mut at, mut depth) = (open + 2, 1);
    while at < chars.len() && depth > 0 {
        let pair = (chars[at], chars.get(at + 1).copied());
        depth += i32::from(pair == ('/', Some('*'))) - i32::from(pair == ('*', Some('/')));
        at += if matches!(pair, ('/', Some('*')) | ('*', Some('/'))) { 2 } else { 1 };
    }
    at.min(chars.len())
}

/// `None` for a raw identifier such as `r#type`.
fn raw_string(chars: &[char], r: usize) -> Option<usize> {
    let quote = find(chars, r + 1, |c| c != '#');
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    let hashes = quote - r - 1;
    let mut at = quote + 1;
    while at < chars.len() {
        if chars[at] == '"' && chars[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes {
            return Some(at + 1 + hashes);
        }
        at += 1;
    }
    Some(chars.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        let code = "a // x\nb /* y /* z */ y */ c \"q\\\"r\" 'k' '\\n' r#\"s \" t\"# br\"u\" &'life r#type for_r\"v\"";
        let left: Vec<String> = strip(code).split_whitespace().map(str::to_owned).collect();
        assert_eq!(left, ["a", "b", "c", "&'life", "r#type", "for_r"]);
        assert_eq!(strip("\"a\nb\"\nc").matches('\n').count(), 2, "lines stay");
    }

    #[test]
    fn unfinished_input_ends() {
        for text in ["\"abc", "/* abc", "r#\"abc", "'\\", "b", "r", "/", "\"\\"] {
            assert!(strip(text).len() <= text.len());
        }
    }
}
