//! The configs of docs/recipes/, as they stand on their pages.

use super::real::root;
use super::{Gateway, ISSUER};

/// What a page has people paste, with the test's own places in it.
pub struct Recipe(String);

impl Recipe {
    /// The config of a page: its first `toml` block, listening on a port that the system gives, with files and issuer of the
    /// harness.
    pub fn of(page: &str) -> Self {
        Self(Self::on_page(page))
            .with("0.0.0.0:8443", "127.0.0.1:0")
            .with("https://issuer.example", ISSUER)
            .with("\"certs/", "\"")
    }

    /// The config as it stands on the page.
    pub fn on_page(page: &str) -> String {
        Self::block_of(page, "toml")
    }

    /// The first block of this kind on a page.
    pub fn block_of(page: &str, kind: &str) -> String {
        let path = root().join("docs/recipes").join(page).with_extension("md");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let block = text.split(&format!("```{kind}\n")).nth(1).and_then(|rest| rest.split("```").next());
        block.unwrap_or_else(|| panic!("{page} has no {kind}")).to_owned()
    }

    /// Puts the test's own place where the page has an example, which must be there.
    #[must_use]
    pub fn with(self, example: &str, ours: &str) -> Self {
        assert!(self.0.contains(example), "{example} is not in\n{}", self.0);
        Self(self.0.replace(example, ours))
    }

    /// Runs a gateway with it, which logs all that a test may ask for.
    pub async fn start(self) -> Gateway {
        Gateway::start_with(&self.0, |command| {
            command.env("PORTCULLIS_LOG__LEVEL", "debug");
        })
        .await
    }
}

/// The names of all pages.
pub fn pages() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("docs/recipes")).expect("docs/recipes");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    let pages: Vec<String> =
        names.filter_map(|name| Some(name.strip_suffix(".md")?.to_owned())).filter(|name| name != "README").collect();
    assert!(!pages.is_empty(), "no pages were seen");
    pages
}
