//! A real issuer, with a certificate of its own, that a test has misbehave as it likes.

use std::time::Duration;

use portcullis::fetch::{Fetcher, Url};
use portcullis::issuer::{ClientAuth, ClientCredentials, Endpoint, TokenEndpoint};
use portcullis::secret::Secret;
use portcullis::upstream::trust::roots;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::PATIENCE;
use super::certificate::Authority;
use super::real::Program;

/// npm's `oidc-provider`; see tests/real/issuer.cjs.
pub struct Issuer {
    program: Program,
    folder: TempDir,
    authority: Authority,
    url: String,
}

impl Issuer {
    /// One that signs with the key `first`.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new();
        authority.write(folder.path());
        let (chain, key) = Authority::new().leaf(&["localhost"]);
        std::fs::write(folder.path().join("bad-cert.pem"), chain).expect("bad-cert.pem");
        std::fs::write(folder.path().join("bad-key.pem"), key).expect("bad-key.pem");
        std::fs::write(folder.path().join("client.secret"), SECRET).expect("client.secret");
        let (program, url) = Program::oidc_provider(folder.path()).await;
        Self { program, folder, authority, url }
    }

    /// Its `iss`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// As a gateway's config has it; `more` are further lines.
    pub fn table(&self, more: &str) -> String {
        let (url, ca) = (&self.url, self.path("ca.pem"));
        format!("[[issuer]]\nname = \"sso\"\ndiscovery = \"{url}\"\naud = [\"gate\"]\njwks_ca = \"{ca}\"\n{more}\n")
    }

    /// Has it do something.
    pub async fn does(&mut self, what: Value) {
        self.program.call(what).await;
    }

    /// Has it publish these keys, and sign with this one.
    pub async fn publishes(&mut self, keys: &[&str], sign: &str) {
        self.does(json!({"publish": keys, "sign": sign})).await;
    }

    /// How often this path was asked for.
    pub async fn asked(&mut self, path: &str) -> u64 {
        self.program.call(json!({"asked": true})).await[path].as_u64().unwrap_or_default()
    }

    /// A token that its client has asked for, good for so many seconds.
    pub async fn token(&self, life: u64) -> String {
        let roots = roots(self.authority.pem().as_bytes()).expect("roots");
        let fetcher = Fetcher::new(Some(roots), PATIENCE).expect("a fetcher");
        let credentials = ClientCredentials {
            id: CLIENT.into(),
            secret: Secret::new(SECRET.into()),
            auth: ClientAuth::Basic,
            scope: Some("chat".into()),
            resources: vec![format!("https://gate.test/{life}")],
            audience: None,
        };
        let url = Url::parse(&format!("{}/token", self.url)).expect("a URL");
        let endpoint = TokenEndpoint::new(fetcher, Endpoint::At(url), credentials);
        let issued = endpoint.fetch().await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(issued.expires_in, Some(Duration::from_secs(life)));
        issued.token.expose().to_owned()
    }

    /// A token that names a key of any `kid`, whichever has signed it.
    pub async fn token_of(&mut self, kid: &str) -> String {
        let token = self.program.call(json!({"token": 60, "kid": kid})).await;
        token.as_str().expect("a token").to_owned()
    }
}

/// Its one client.
pub const CLIENT: &str = "robot";
const SECRET: &str = "robot-secret";
