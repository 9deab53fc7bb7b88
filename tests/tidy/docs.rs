//! The documents: links resolve, the index lists every page, and the files of the code map exist.

use std::fs;
use std::path::PathBuf;

use super::{none, root};

/// The Markdown files of one folder, sorted.
fn pages(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let mut pages: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|e| e == "md"));
    pages.sort();
    pages
}

/// The anchor that Markdown readers give a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

/// The targets of the links of a document that stay in the repository.
fn links(text: &str) -> Vec<&str> {
    let ends = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    ends.map(|(target, _)| target).filter(|target| !target.contains("://")).collect()
}

/// Whether a document has a heading with this anchor; any has the empty one.
fn has_heading(text: &str, wanted: &str) -> bool {
    let mut headings = text.lines().filter(|line| line.starts_with('#'));
    wanted.is_empty() || headings.any(|line| anchor(line.trim_start_matches('#').trim()) == wanted)
}

#[test]
fn links_between_documents_resolve() {
    let mut broken = Vec::new();
    for document in ["", "docs", "docs/dev"].map(pages).concat() {
        for link in links(&fs::read_to_string(&document).unwrap()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            let resolves = match fs::read_to_string(&target) {
                Ok(text) => has_heading(&text, heading),
                Err(_) => target.is_dir(),
            };
            if !resolves {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    none("links to files or headings that do not exist", broken);
}

#[test]
fn index_lists_every_page() {
    let index = root().join("docs/README.md");
    let text = fs::read_to_string(&index).unwrap();
    let listed = links(&text);
    let mut pages = ["docs", "docs/dev"].map(pages).concat();
    pages.retain(|page| *page != index);
    let names = pages.iter().map(|page| page.strip_prefix(root().join("docs")).unwrap());
    let names = names.map(|name| name.to_str().unwrap().to_owned());
    none(
        "pages that docs/README.md does not list",
        names.filter(|name| !listed.contains(&name.as_str())).collect(),
    );
}

#[test]
fn code_map_names_existing_files() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let map = text.split("## Code map").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut modules = Vec::new();
    for part in map.split("\n**").skip(1) {
        let (name, rest) = part.split_once("**").unwrap();
        for item in rest.split("\n- ").skip(1) {
            let names = item.split_once(':').unwrap().0.split('`').skip(1).step_by(2);
            modules.extend(names.map(|module| format!("{name}/src/{module}")));
        }
    }
    assert!(modules.len() > 50, "the code map has {} modules", modules.len());
    let exists = |module: &str| {
        root().join(module).is_dir() || root().join(format!("{module}.rs")).is_file()
    };
    modules.retain(|module| !exists(module));
    none("modules of ARCHITECTURE.md that do not exist", modules);
}
