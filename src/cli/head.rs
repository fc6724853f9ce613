//! `headwater head`.

use clap::{ArgAction, Args};

use super::client::{self, Server};
use super::failure::Failure;
use super::output;

/// Show what a stream is: its type, its end, whether it is closed, when it expires
///
/// This does not count as reading it, so it does not put off its expiry.
#[derive(Debug, Args)]
pub(super) struct Head {
    /// The stream: its name below the URL of the server, or its whole URL
    stream: String,

    /// Print it as JSON
    #[arg(long, action = ArgAction::SetTrue)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

impl Head {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let url = self.server.stream(&self.stream)?;
        let client = self.server.connect()?;
        let headers = client::head(&client, &url, &mut self.server.patience()).await?;
        let next_offset = headers.next_offset()?;
        if self.json {
            let all = serde_json::json!({
                "url": url.as_str(),
                "content_type": headers.content_type,
                "next_offset": next_offset,
                "closed": headers.closed,
                "ttl_seconds": headers.ttl_s,
                "expires_at": headers.expires_at,
            });
            return output::line(&all.to_string());
        }
        let ttl = headers
            .ttl_s
            .map(|seconds| format!("{seconds} s after it was last used"));
        let expires = headers.expires_at.clone().or(ttl);
        let lines = [
            ("url", url.as_str()),
            (
                "content type",
                headers.content_type.as_deref().unwrap_or("unknown"),
            ),
            ("next offset", next_offset),
            ("closed", if headers.closed { "yes" } else { "no" }),
            ("expires", expires.as_deref().unwrap_or("never")),
        ];
        lines
            .iter()
            .try_for_each(|(name, value)| output::line(&format!("{name:<13} {value}")))
    }
}
