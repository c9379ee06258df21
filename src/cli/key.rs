//! The arguments that say how tokens are made: their claims and the key that signs them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::{Map, Value};

use super::{ConfigFile, Failure};
use crate::config::{Config, SigningKey, trim_newline};
use crate::issuer::mint::{Mint, MintKey};
use crate::secret::Secret;
use crate::token::keys::Algorithm;

/// Claims and key.
#[derive(Debug, Args)]
pub(super) struct KeyArguments {
    /// The issuer claim [default: the one of the config's issuer]
    #[arg(long)]
    iss: Option<String>,
    /// The audience; may be given several times [default: the first one of the config's issuer]
    #[arg(long)]
    aud: Vec<String>,
    /// Another claim; a value that is JSON is taken as that, others as a string
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, Value)>,
    /// Sign with the shared secret of this issuer of the config
    #[arg(long, value_name = "NAME", conflicts_with_all = ["secret_file", "secret_env", "pem_file"])]
    issuer: Option<String>,
    /// Sign with the shared secret in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["secret_env", "pem_file"])]
    secret_file: Option<PathBuf>,
    /// Sign with the shared secret in this environment variable
    #[arg(long, value_name = "NAME", conflicts_with = "pem_file")]
    secret_env: Option<String>,
    /// Sign with the private key in this file (PEM)
    #[arg(long, value_name = "FILE", requires = "alg")]
    pem_file: Option<PathBuf>,
    /// The algorithm [default: HS256 for a secret]
    #[arg(long, value_parser = algorithm)]
    alg: Option<Algorithm>,
    /// The key's name in the token's header
    #[arg(long)]
    kid: Option<String>,
    #[command(flatten)]
    file: ConfigFile,
}

impl KeyArguments {
    /// The value of --issuer: a name, or for verbs that take tokens from elsewhere too a URL.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// The maker of such tokens, good for `ttl`.
    pub(super) fn mint(&self, ttl: Duration) -> Result<Mint, Failure> {
        let mut claims = Map::new();
        let key = match self.own_key()? {
            Some(key) => key,
            None => self.config_key(&self.file.load()?, &mut claims)?,
        };
        if let Some(iss) = &self.iss {
            claims.insert("iss".to_owned(), iss.clone().into());
        }
        match self.aud.as_slice() {
            [] => {}
            [one] => drop(claims.insert("aud".to_owned(), one.clone().into())),
            several => drop(claims.insert("aud".to_owned(), several.to_vec().into())),
        }
        claims.extend(self.claims.iter().cloned());
        Ok(Mint::new(key, claims, ttl))
    }

    /// The key that the arguments name, if they name one.
    fn own_key(&self) -> anyhow::Result<Option<MintKey>> {
        let kid = self.kid.clone();
        let alg = self.alg.unwrap_or(Algorithm::HS256);
        if let Some(file) = &self.pem_file {
            return Ok(Some(MintKey::from_pem(alg, kid, &read(file)?)?));
        }
        let secret = if let Some(file) = &self.secret_file {
            let mut secret = read(file)?;
            trim_newline(&mut secret);
            secret
        } else if let Some(name) = &self.secret_env {
            let value = std::env::var(name).map_err(|_| anyhow!("the environment variable {name} is not set"))?;
            value.into_bytes()
        } else {
            return Ok(None);
        };
        Ok(Some(MintKey::from_secret(alg, kid, &Secret::new(secret))?))
    }

    /// The key of the issuer that the arguments name, or of the only one that has a secret; and the claims it wants.
    fn config_key(&self, config: &Config, claims: &mut Map<String, Value>) -> anyhow::Result<MintKey> {
        let fits = |key: &&SigningKey| {
            self.issuer.as_deref().is_none_or(|name| *key.issuer == *name)
                && self.alg.is_none_or(|alg| alg == key.algorithm)
                && (self.kid.is_none() || self.kid == key.kid)
        };
        let key = config.signing.iter().find(fits).ok_or_else(|| {
            let whose = self.issuer.as_deref().map_or_else(String::new, |name| format!(" of the issuer {name}"));
            anyhow!("the config has no shared secret{whose} that fits: name a key with --secret-file or --pem-file")
        })?;
        if self.issuer.is_none() && config.signing.iter().filter(fits).any(|other| other.issuer != key.issuer) {
            return Err(anyhow!("several issuers of the config have a secret: choose one with --issuer NAME"));
        }
        if let Some(issuer) = config.issuers.iter().find(|issuer| issuer.name == key.issuer) {
            if let Some(iss) = &issuer.iss {
                claims.insert("iss".to_owned(), iss.clone().into());
            }
            if let Some(aud) = issuer.aud.first() {
                claims.insert("aud".to_owned(), aud.clone().into());
            }
        }
        Ok(MintKey::from_secret(key.algorithm, key.kid.clone(), &key.secret)?)
    }
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    Algorithm::from_name(text).ok_or_else(|| "no such algorithm: for example HS256, RS256, ES256, EdDSA".to_owned())
}

/// The content of a small file.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let name = file.display().to_string();
    let mut opened = std::fs::File::open(file).with_context(|| format!("cannot read {name}"))?;
    read_bounded(&mut opened, &name)
}

/// What can be read, at most 1 MiB; tokens, keys and certificates are far smaller.
pub(super) fn read_bounded(from: &mut impl std::io::Read, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(LARGEST).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    Ok(bytes)
}

const LARGEST: u64 = 1024 * 1024;
