//! `headwater fork`.

use bytes::Bytes;
use clap::{ArgAction, Args};
use http::Method;

use super::client::{Request, Server};
use super::create::{self, Expiry};
use super::failure::Failure;

/// Make a stream that begins with what another one holds
///
/// Nothing is copied, and what is appended to the one does not show in the other. Both must be on
/// the same server. The URL of the new stream is printed.
#[derive(Debug, Args)]
pub(super) struct Fork {
    /// The stream to begin with: its name below the URL of the server, or its whole URL
    source: String,

    /// The stream to make
    stream: String,

    /// Where the new stream parts from the source [default: at its end]
    #[arg(long, allow_hyphen_values = true)]
    offset: Option<String>,

    /// How far behind that: a number of JSON messages, or of bytes
    #[arg(long, value_name = "COUNT")]
    sub_offset: Option<u64>,

    #[command(flatten)]
    expiry: Expiry,

    /// Print the outcome as JSON
    #[arg(long, action = ArgAction::SetTrue)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

impl Fork {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let source = self.server.stream(&self.source)?;
        let url = self.server.stream(&self.stream)?;
        if source.origin() != url.origin() {
            return Err(Failure::usage(
                "the source and the new stream must be on the same server",
            ));
        }
        let client = self.server.connect()?;
        let sub_offset = self.sub_offset.map(|count| count.to_string());
        let request = Request::new(Method::PUT, &url)
            .header("stream-forked-from", source.path())?
            .header_if("stream-fork-offset", self.offset.as_deref())?
            .header_if("stream-fork-sub-offset", sub_offset.as_deref())?;
        let request = self.expiry.add_to(request)?;
        create::create(
            &client,
            &url,
            &request,
            &Bytes::new(),
            self.server.patience(),
            self.json,
        )
        .await
    }
}
