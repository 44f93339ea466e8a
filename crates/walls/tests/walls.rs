//! The repository keeps its own rules: layers, purity, `unsafe`, file heads and sizes, names.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use catena_walls::{check_dependency, check_name, check_source, defines, exists, places_named, tests_in, tests_named};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// Every .rs file of the repository, build directories left out.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        let hidden = name.starts_with('.') || name == "target" || name.starts_with("target-");
        if entry.file_type().unwrap().is_dir() && !hidden {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_source_file_keeps_the_rules() {
    let root = root();
    let mut files = Vec::new();
    sources(&root, &mut files);
    files.sort();
    assert!(files.len() > 20, "found only {} source files under {}", files.len(), root.display());
    let broken: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let path = file.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            check_source(&path, &std::fs::read_to_string(file).unwrap())
        })
        .map(|violation| violation.to_string())
        .collect();
    assert!(broken.is_empty(), "{} rules broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn crates_depend_only_on_the_layers_below() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs this test, so it is there");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut broken = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        broken.extend(check_name(name));
        for dependency in package["dependencies"].as_array().unwrap() {
            if dependency["kind"].as_str() != Some("dev") {
                broken.extend(check_dependency(name, dependency["name"].as_str().unwrap()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_test_named_in_the_documentation_exists() {
    let root = root();
    let mut files = Vec::new();
    sources(&root, &mut files);
    let tests: Vec<String> = files.iter().flat_map(|file| tests_in(&std::fs::read_to_string(file).unwrap())).collect();
    let named = tests_named(&std::fs::read_to_string(root.join("docs/testing.md")).unwrap());
    assert!(named.len() > 100, "only {} tests are named in docs/testing.md", named.len());
    let missing: Vec<&String> = named.iter().filter(|name| !exists(name, &tests)).collect();
    assert!(missing.is_empty(), "docs/testing.md names tests that do not exist: {missing:?}");
}

#[test]
fn every_place_named_in_the_protocol_exists() {
    let root = root();
    let text = std::fs::read_to_string(root.join("docs/protocol.md")).unwrap();
    let places = places_named(&text, "crates/chain/src/replica");
    assert!(places.len() > 60, "only {} places are named in docs/protocol.md", places.len());
    let missing = |place: &catena_walls::Place| {
        let path = root.join(&place.file);
        if path.is_dir() && place.names.is_empty() {
            return Vec::new();
        }
        let Ok(source) = std::fs::read_to_string(&path) else { return vec![place.file.clone()] };
        let unknown = place.names.iter().filter(|name| !defines(&source, name));
        unknown.map(|name| format!("{} {name}", place.file)).collect()
    };
    let missing: Vec<String> = places.iter().flat_map(missing).collect();
    assert!(missing.is_empty(), "docs/protocol.md names what is not there:\n{}", missing.join("\n"));
}
