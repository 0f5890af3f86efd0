//! Calls to addresses that somebody outside named: public ones only, without redirects or proxies, within a time and a size.
//!
//! A name is resolved by our own resolver, whose answer is what gets connected to; so a name can't be public when it is checked and
//! private when it is called.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::RETRY_AFTER;
use reqwest::redirect::Policy;

use super::OutboundError;
use super::address::{Address, AddressError, is_public};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call may take in all.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes of an answer that are read so that its connection can be used again; nobody looks at them.
const IGNORED_BODY_MAX_BYTES: usize = 4096;

/// A client for addresses that were named by somebody else; cheap to clone.
#[derive(Clone, Debug)]
pub struct GuardedClient {
    client: reqwest::Client,
    allow_private: bool,
    timeout: Duration,
}

/// What a receiver answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// After which time it wants to be called again, if it said so in seconds.
    pub retry_after: Option<Duration>,
}

/// Why a call has no answer; the words are meant for whoever named the address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The address isn't one that may be called.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It took too long.
    #[error("no answer within {} seconds", .0.as_secs_f64())]
    Timeout(Duration),
    /// No connection, or one that broke.
    #[error("the connection failed: {0}")]
    Connection(String),
    /// The answer has another status than 200.
    #[error("the answer was {0}")]
    Status(u16),
    /// The answer is longer than what was asked for may be.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

impl GuardedClient {
    /// A client that waits 15 seconds for an answer; with `allow_private` it calls every address.
    pub fn new(allow_private: bool) -> Result<Self, OutboundError> {
        Self::within(allow_private, CALL_TIMEOUT)
    }

    /// A client that waits as long as `timeout` for an answer, with all of its body.
    pub fn within(allow_private: bool, timeout: Duration) -> Result<Self, OutboundError> {
        // Fails only when another part of the process installed one before, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .dns_resolver(Arc::new(GuardedResolver { allow_private }))
            .redirect(Policy::none())
            // A proxy would resolve names itself, past the guard.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .user_agent(concat!("gleaner/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(OutboundError::Setup)?;
        Ok(Self { client, allow_private, timeout })
    }

    /// Checks an address as far as that goes without calling it.
    pub fn address(&self, text: &str) -> Result<Address, AddressError> {
        Address::parse(text, self.allow_private)
    }

    /// Posts a JSON body and gives the answer's status, whatever it is.
    pub async fn post_json(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: Vec<u8>,
    ) -> Result<Reply, CallError> {
        let address = self.address(url)?;
        let request = self.client.post(address.0).header("content-type", "application/json").body(body);
        let request = headers.iter().fold(request, |request, (name, text)| request.header(*name, text));
        let mut response = request.send().await.map_err(|error| self.describe(&error))?;
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let reply =
            Reply { status: response.status().as_u16(), retry_after: retry_after.map(Duration::from_secs) };
        // What is left unread closes the connection; a receiver that streams for ever costs no more than that.
        let mut read_bytes = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            read_bytes += chunk.len();
            if read_bytes > IGNORED_BODY_MAX_BYTES {
                break;
            }
        }
        Ok(reply)
    }

    /// Gets what stands at an address, at most `max_bytes` of it.
    pub async fn get(&self, url: &str, max_bytes: usize) -> Result<Vec<u8>, CallError> {
        let address = self.address(url)?;
        let mut response = self.client.get(address.0).send().await.map_err(|error| self.describe(&error))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(CallError::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.describe(&error))? {
            if body.len() + chunk.len() > max_bytes {
                return Err(CallError::TooLarge(max_bytes));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The words of a failed call: its innermost cause, which says what happened to the connection.
    fn describe(&self, error: &reqwest::Error) -> CallError {
        if error.is_timeout() {
            return CallError::Timeout(self.timeout);
        }
        let mut cause: &(dyn Error + 'static) = error;
        loop {
            if let Some(refused) = cause.downcast_ref::<AddressError>() {
                return refused.clone().into();
            }
            match cause.source() {
                Some(inner) => cause = inner,
                None => return CallError::Connection(cause.to_string()),
            }
        }
    }
}

/// Resolves names to the addresses that may be called.
#[derive(Debug)]
struct GuardedResolver {
    allow_private: bool,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|address| allow_private || is_public(address.ip())).collect();
            if allowed.is_empty() {
                return Err(AddressError::Private(name.as_str().to_owned()).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that gives each connection the same answer.
    async fn answer_always(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer).await;
            }
        });
        port
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_private_address_is_refused_when_it_is_called() {
        let port = answer_always(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let client = GuardedClient::new(false).unwrap();
        // Past the check of the text, as a name of somebody else's domain that leads to 127.0.0.1 would be.
        let refused = client.client.get(format!("http://localhost:{port}/")).send().await.unwrap_err();
        assert_eq!(client.describe(&refused), AddressError::Private("localhost".to_owned()).into());
        let allowed = GuardedClient::new(true).unwrap();
        let reply = allowed.post_json(&format!("http://localhost:{port}/"), &[], vec![]).await;
        assert_eq!(reply, Ok(Reply { status: 200, retry_after: None }));
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_followed() {
        let port = answer_always(
            b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        let client = GuardedClient::new(true).unwrap();
        let url = format!("http://127.0.0.1:{port}/");
        let reply = client.post_json(&url, &[], vec![]).await.unwrap();
        assert_eq!(reply, Reply { status: 307, retry_after: Some(Duration::from_secs(7)) });
        assert_eq!(client.get(&url, 10).await, Err(CallError::Status(307)));
    }

    #[tokio::test]
    async fn a_receiver_that_hangs_is_left_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let timeout = Duration::from_millis(50);
        let client = GuardedClient::within(true, timeout).unwrap();
        assert_eq!(client.post_json(&url, &[], vec![]).await, Err(CallError::Timeout(timeout)));
        drop(listener);
        assert!(matches!(client.post_json(&url, &[], vec![]).await, Err(CallError::Connection(_))));
    }

    #[tokio::test]
    async fn what_is_fetched_has_a_limit() {
        let port = answer_always(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n01234567890").await;
        let client = GuardedClient::new(true).unwrap();
        let url = format!("http://127.0.0.1:{port}/");
        assert_eq!(client.get(&url, 10).await, Err(CallError::TooLarge(10)));
        assert_eq!(client.get(&url, 11).await.unwrap(), b"01234567890");
    }
}
