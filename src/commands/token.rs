//! `gleaner token`: creates, lists and revokes tokens without HTTP, for the person who has the database.

use std::process::ExitCode;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};

use super::house::{Entry, House};
use crate::access::token::TokenText;
use crate::config::Config;
use crate::domain::ids::{ProjectId, TokenId};
use crate::domain::role::Role;
use crate::store;

/// Tokens listed at once from the database.
const PAGE: i64 = 500;

#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token and print it, once
    Create {
        /// What it allows
        #[arg(long)]
        role: Role,
        /// Whom or what it is for
        #[arg(long)]
        name: String,
        /// Only this project (name or id); may be given several times. Absent: all projects
        #[arg(long = "project")]
        projects: Vec<String>,
        /// When it ends, as in 2030-01-31T00:00:00Z. Absent: never
        #[arg(long)]
        expires_at: Option<DateTime<Utc>>,
    },
    /// List all tokens; their secrets aren't kept
    List,
    /// End a token at once
    Revoke {
        /// Its id, as `token list` shows it
        id: TokenId,
    },
}

/// Carries out one action on tokens.
pub async fn run(config: Config, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let house = House::open(config, Entry::Start).await?;
    let done = act(&house, arguments.action).await;
    house.close().await?;
    done?;
    Ok(ExitCode::SUCCESS)
}

async fn act(house: &House, action: Action) -> anyhow::Result<()> {
    match action {
        Action::Create { role, name, projects, expires_at } => {
            let mut connection = house.store.acquire().await?;
            let mut ids = Vec::new();
            for reference in &projects {
                ids.push(find_project(&mut connection, reference).await?);
            }
            let scope = (!ids.is_empty()).then_some(ids.as_slice());
            let text = TokenText::mint(role).context("random bytes for a token")?;
            let id =
                store::token::insert(&mut connection, role, &name, &text.hash(), scope, expires_at).await?;
            eprintln!("token {id} for {name} ({}), shown once:", role.as_str());
            println!("{}", text.expose());
        }
        Action::List => list(house).await?,
        Action::Revoke { id } => {
            let mut connection = house.store.acquire().await?;
            if !store::token::revoke(&mut connection, id).await? {
                bail!("no token of id {id} is in force; `gleaner token list` shows all");
            }
            eprintln!("token {id} is revoked");
        }
    }
    Ok(())
}

async fn list(house: &House) -> anyhow::Result<()> {
    let mut connection = house.store.acquire().await?;
    let mut after = None;
    println!("{:36}  {:8}  {:9}  {:20}  name", "id", "role", "state", "created");
    loop {
        let rows = store::token::list(&mut connection, after, PAGE).await?;
        for row in &rows {
            let state = match (row.revoked_at, row.expires_at) {
                (Some(_), _) => "revoked",
                (None, Some(end)) if end <= Utc::now() => "expired",
                _ => "in force",
            };
            let created = row.created_at.format("%Y-%m-%dT%H:%M:%SZ");
            println!(
                "{:36}  {:8}  {state:9}  {created:20}  {}",
                row.id.to_string(),
                row.role.as_str(),
                row.name
            );
        }
        match rows.last() {
            Some(last) if rows.len() as i64 == PAGE => after = Some(last.id),
            _ => return Ok(()),
        }
    }
}

/// The project of a name or an id.
pub(super) async fn find_project(
    connection: &mut store::PgConnection,
    reference: &str,
) -> anyhow::Result<ProjectId> {
    let found = match reference.parse::<ProjectId>() {
        Ok(id) => store::project::find(connection, id).await?,
        Err(_) => store::project::find_by_name(connection, reference).await?,
    };
    match found {
        Some(project) => Ok(project.id),
        None => bail!("there is no project '{reference}'; its name or id is needed"),
    }
}
