//! Configuration: command-line flags over environment variables over defaults, read once at the start.
//!
//! `Settings` is the clap surface shared by every command; `Config` is what the rest of the program sees, parsed and checked. Secrets print
//! as `***`. `.env.example` lists every variable and a test holds it to this file.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use thiserror::Error;

/// A value that must not appear in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself; only for the place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// The device that learns and scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device when this build has CUDA and one is present, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("'{text}' is no device; use auto, cpu or cuda:N")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// Flags and variables that every command understands.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Postgres to use; unset: gleaner starts a private cluster under its home
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true)]
    pub database_url: Option<Secret>,

    /// Folder of images, checkpoints, secrets and the private cluster [default: /var/lib/gleaner for root,
    /// $XDG_DATA_HOME/gleaner otherwise]
    #[arg(long, env = "GLEANER_HOME", global = true)]
    pub home: Option<PathBuf>,

    /// Address and port to listen on
    #[arg(long, env = "GLEANER_LISTEN", default_value = "127.0.0.1:8080", global = true)]
    pub listen: SocketAddr,

    /// Fixes the first admin token; unset: one is made and kept in <home>/admin.token
    #[arg(long, env = "GLEANER_ADMIN_TOKEN", hide_env_values = true, global = true)]
    pub admin_token: Option<Secret>,

    /// Object store of images and checkpoints, file:///path or s3://bucket/prefix [default: <home>/blobs]
    #[arg(long, env = "GLEANER_BLOB_URL", global = true)]
    pub blob_url: Option<String>,

    /// Folders that server-side imports may read, separated by ':'; empty: none
    #[arg(long, env = "GLEANER_IMPORT_ROOTS", value_delimiter = ':', global = true)]
    pub import_roots: Vec<String>,

    /// Where to learn: auto, cpu or cuda:N
    #[arg(long, env = "GLEANER_DEVICE", default_value = "auto", global = true)]
    pub device: DeviceChoice,

    /// Compute threads of the learner; 0: one a core. Results repeat to the bit only under one thread count
    #[arg(long, env = "GLEANER_THREADS", default_value_t = 0, global = true)]
    pub threads: usize,

    /// Log filter, as in `info,gleaner=debug`
    #[arg(long, env = "GLEANER_LOG", default_value = "info", global = true)]
    pub log: String,

    /// Address under which people reach the server, for links in events and pages [default: http://<listen>]
    #[arg(long, env = "GLEANER_PUBLIC_URL", global = true)]
    pub public_url: Option<String>,

    /// Serve /metrics without a token
    #[arg(long, env = "GLEANER_METRICS_OPEN", global = true)]
    pub metrics_open: bool,

    /// Let webhooks and images named by address lead into private networks and to this machine, as for a receiver beside the server
    #[arg(long, env = "GLEANER_OUTBOUND_ALLOW_PRIVATE", global = true)]
    pub outbound_allow_private: bool,

    /// Serve the pages from this folder (a checkout's static/) while working on them; unset: those compiled in
    #[arg(long, env = "GLEANER_PAGES", global = true)]
    pub pages: Option<PathBuf>,
}

/// Why the configuration can't be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Neither a home nor a place to derive it from.
    #[error("no home folder: set GLEANER_HOME, or XDG_DATA_HOME or HOME to derive it from")]
    NoHome,
    /// A public URL that isn't one.
    #[error("GLEANER_PUBLIC_URL is '{0}', which is no http(s) address such as https://gleaner.example.org")]
    PublicUrl(String),
}

/// The configuration as the program uses it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Given Postgres, or `None` for the private cluster.
    pub database_url: Option<Secret>,
    /// Data folder.
    pub home: PathBuf,
    /// Where the server listens.
    pub listen: SocketAddr,
    /// First admin token, when fixed.
    pub admin_token: Option<Secret>,
    /// Object store.
    pub blob_url: String,
    /// Folders (and `s3://` prefixes) that imports may read.
    pub import_roots: Vec<String>,
    /// Device of the learner.
    pub device: DeviceChoice,
    /// Compute threads, at least 1.
    pub threads: usize,
    /// Address for links, without a slash at its end.
    pub public_url: String,
    /// Whether `/metrics` needs no token.
    pub metrics_open: bool,
    /// Whether addresses named by users may lead into private networks.
    pub outbound_allow_private: bool,
    /// Folder to serve pages from instead of those compiled in.
    pub pages: Option<PathBuf>,
}

impl Settings {
    /// Fills in what depends on the machine and checks what clap can't.
    pub fn resolve(&self) -> Result<Config, ConfigError> {
        let home = match &self.home {
            Some(home) => std::path::absolute(home).unwrap_or_else(|_| home.clone()),
            None => default_home().ok_or(ConfigError::NoHome)?,
        };
        let public_url = match &self.public_url {
            Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                url.trim_end_matches('/').to_owned()
            }
            Some(url) => return Err(ConfigError::PublicUrl(url.clone())),
            None => format!("http://{}", self.listen),
        };
        let blob_url =
            self.blob_url.clone().unwrap_or_else(|| format!("file://{}", home.join("blobs").display()));
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Config {
            database_url: self.database_url.clone(),
            home,
            listen: self.listen,
            admin_token: self.admin_token.clone(),
            blob_url,
            import_roots: self.import_roots.iter().filter(|root| !root.is_empty()).cloned().collect(),
            device: self.device,
            threads: if self.threads == 0 { cores } else { self.threads },
            public_url,
            metrics_open: self.metrics_open,
            outbound_allow_private: self.outbound_allow_private,
            pages: self.pages.clone(),
        })
    }
}

/// `/var/lib/gleaner` for root, since root's own home is closed to the user that Postgres runs as.
fn default_home() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/gleaner"));
    }
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("XDG_DATA_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("gleaner"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print_itself() {
        assert_eq!(format!("{:?}", Secret::new("gl_a_123".to_owned())), "***");
    }

    #[test]
    fn devices_parse_and_a_wrong_one_says_what_is_right() {
        assert_eq!("cuda:1".parse(), Ok(DeviceChoice::Cuda(1)));
        assert!("gpu".parse::<DeviceChoice>().unwrap_err().contains("cuda:N"));
    }

    #[test]
    fn the_example_lists_every_variable_and_no_other() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            settings: Settings,
        }
        let command = <Cli as clap::CommandFactory>::command();
        let mut known: Vec<String> = command
            .get_arguments()
            .filter_map(|argument| Some(argument.get_env()?.to_string_lossy().into_owned()))
            .collect();
        known.sort();
        let mut listed: Vec<String> = include_str!("../.env.example")
            .lines()
            .filter_map(|line| line.trim_start_matches("# ").split_once('='))
            .map(|(name, _)| name.to_owned())
            .filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
            .collect();
        listed.sort();
        assert_eq!(listed, known);
    }
}
