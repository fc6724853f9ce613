//! `headwater close`.

use bytes::Bytes;
use clap::{ArgAction, Args};
use http::Method;

use super::client::{Request, Server, StreamHeaders};
use super::failure::Failure;
use super::output;

/// Close a stream, so that nothing more can be appended
///
/// What it holds can still be read. The offset of its end is printed. It is no failure if the stream
/// is closed already.
#[derive(Debug, Args)]
pub(super) struct Close {
    /// The stream: its name below the URL of the server, or its whole URL
    stream: String,

    /// Print the outcome as JSON
    #[arg(long, action = ArgAction::SetTrue)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

impl Close {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let url = self.server.stream(&self.stream)?;
        let client = self.server.connect()?;
        let request = Request::new(Method::POST, &url).header("stream-closed", "true")?;
        let mut patience = self.server.patience();
        // Closing a closed stream succeeds, so this can be tried again.
        let response = client
            .send_patiently(&request, &Bytes::new(), &mut patience)
            .await?;
        let headers = StreamHeaders::of(response.headers());
        let next_offset = headers.next_offset()?;
        if !self.json {
            return output::line(next_offset);
        }
        let outcome = serde_json::json!({ "next_offset": next_offset, "closed": headers.closed });
        output::line(&outcome.to_string())
    }
}
