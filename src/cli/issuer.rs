//! The arguments that say which issuer hands out tokens, and to whom.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use zeroize::Zeroizing;

use super::Failure;
use super::key::read;
use crate::config::trim_newline;
use crate::fetch::{Fetcher, Url};
use crate::issuer::{ClientAuth, ClientCredentials, Endpoint, TokenEndpoint};
use crate::secret::Secret;
use crate::upstream::trust::roots;

/// An issuer's token endpoint, and a client of its own there.
#[derive(Debug, Args)]
pub(super) struct IssuerArguments {
    /// Take tokens from this token endpoint by client credentials; --issuer URL finds it by OIDC discovery
    #[arg(long, value_name = "URL", value_parser = Url::parse, requires = "client_id",
        conflicts_with_all = ["issuer", "token_file", "token_command"])]
    token_url: Option<Url>,
    /// The client's id at that issuer
    #[arg(long, value_name = "ID", conflicts_with_all = ["token_file", "token_command"])]
    client_id: Option<String>,
    /// The client's secret at that issuer is in this file
    #[arg(long, value_name = "FILE", requires = "client_id")]
    client_secret_file: Option<PathBuf>,
    /// The client's secret at that issuer is in this environment variable
    #[arg(long, value_name = "NAME", requires = "client_id", conflicts_with = "client_secret_file")]
    client_secret_env: Option<String>,
    /// Scopes to ask for, separated by spaces
    #[arg(long, value_name = "TEXT", requires = "client_id")]
    scope: Option<String>,
    /// The service that the token is to be for (RFC 8707); may be given several times
    #[arg(long, value_name = "URI", requires = "client_id")]
    resource: Vec<String>,
    /// The same for issuers that know `audience` instead
    #[arg(long, value_name = "TEXT", requires = "client_id")]
    audience: Option<String>,
    /// Where id and secret stand in the request
    #[arg(long, value_enum, default_value_t = Auth::Basic, requires = "client_id")]
    auth: Auth,
    /// The CA (PEM) that must have signed the issuer's certificate [default: the system's roots]
    #[arg(long, value_name = "FILE", requires = "client_id")]
    issuer_ca: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Auth {
    /// In the header Authorization
    Basic,
    /// In the form
    Post,
}

impl IssuerArguments {
    /// The endpoint, if one is named here or by `issuer`, the value of --issuer.
    pub(super) fn endpoint(&self, issuer: Option<&str>) -> Result<Option<TokenEndpoint>, Failure> {
        let issuer = issuer.filter(|issuer| issuer.contains("://"));
        let endpoint = match (&self.token_url, issuer) {
            (Some(url), _) => Endpoint::At(url.clone()),
            (None, Some(issuer)) => {
                Endpoint::discovered(issuer).map_err(|error| Failure::Usage(format!("--issuer: {error}")))?
            }
            (None, None) if self.client_id.is_some() => {
                let text = "--client-id goes with --issuer URL or --token-url URL".to_owned();
                return Err(Failure::Usage(text));
            }
            (None, None) => return Ok(None),
        };
        let id = self.client_id.clone();
        let credentials = ClientCredentials {
            id: id.ok_or_else(|| Failure::Usage("an issuer's URL needs --client-id".to_owned()))?,
            secret: self.secret()?,
            auth: match self.auth {
                Auth::Basic => ClientAuth::Basic,
                Auth::Post => ClientAuth::Post,
            },
            scope: self.scope.clone(),
            resources: self.resource.clone(),
            audience: self.audience.clone(),
        };
        let ca = self.issuer_ca.as_deref().map(read).transpose()?;
        let ca = ca.as_deref().map(roots).transpose().context("the file of --issuer-ca")?;
        let fetcher = Fetcher::new(ca, TIMEOUT).context("no TLS")?;
        Ok(Some(TokenEndpoint::new(fetcher, endpoint, credentials)))
    }

    fn secret(&self) -> Result<Secret, Failure> {
        let mut secret = match (&self.client_secret_file, &self.client_secret_env) {
            (Some(file), _) => Zeroizing::new(read(file)?),
            (None, Some(name)) => {
                let value = std::env::var(name).map_err(|_| anyhow!("the environment variable {name} is not set"))?;
                Zeroizing::new(value.into_bytes())
            }
            (None, None) => {
                let text = "an issuer's URL needs --client-secret-file or --client-secret-env".to_owned();
                return Err(Failure::Usage(text));
            }
        };
        trim_newline(&mut secret);
        if secret.is_empty() {
            return Err(Failure::Usage("the client's secret is empty".to_owned()));
        }
        Ok(Secret::new(std::mem::take(&mut secret)))
    }
}

/// For each request, so that there may be another before a token's end.
const TIMEOUT: Duration = Duration::from_secs(5);
