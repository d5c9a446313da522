//! What leaves as the body of any answer, with its account held to the last byte.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::account::Account;
use crate::metrics::Source;
use crate::read::body::{CutError, ReadBody};

/// An answer's content, before it is accounted for.
pub enum Content {
    /// Nothing.
    Empty,
    /// Text of ours.
    Text(Bytes),
    /// An object.
    Read(Box<ReadBody>),
    /// What axum made.
    Control(axum::body::Body),
}

/// The body of an answer.
pub struct Body {
    content: Content,
    /// Bytes to come; `None`: not known.
    left: Option<u64>,
    account: Box<Account>,
    /// Not all that was handed out was taken.
    lost: bool,
    /// It was cut, and that was counted.
    cut: bool,
}

impl Body {
    /// `content`, of `length` bytes if that is known.
    pub fn new(content: Content, length: Option<u64>, account: Box<Account>) -> Self {
        Self {
            content,
            left: length,
            account,
            lost: false,
            cut: false,
        }
    }

    /// Notes that the client took nothing for `timeout` of what was handed out last, unless that is known.
    pub fn give_up(&mut self, timeout: Duration) {
        if std::mem::replace(&mut self.cut, true) {
            return;
        }
        self.lose();
        let error = CutError::WriteTimeout(timeout);
        self.account.cut(error.reason(), error.to_string());
    }

    /// Notes that the client has shown that it takes what comes.
    pub fn quick(&mut self) {
        if let Content::Read(body) = &mut self.content {
            body.quick();
        }
    }

    /// Notes that what was handed out last was not taken.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    fn sent(&mut self, bytes: Bytes, source: Option<Source>) -> Frame<Bytes> {
        self.account.sent(source, bytes.len());
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(bytes.len() as u64);
        }
        Frame::data(bytes)
    }

    fn cut(&mut self, error: &CutError) -> std::io::Error {
        self.cut = true;
        self.account.cut(error.reason(), error.to_string());
        // hyper needs to know no more than that: it closes the connection or resets the stream.
        std::io::Error::from(std::io::ErrorKind::Interrupted)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let this = &mut *self;
        let next = match &mut this.content {
            Content::Empty => None,
            Content::Text(text) if text.is_empty() => None,
            Content::Text(text) => Some(Ok((std::mem::take(text), None))),
            Content::Read(body) => std::task::ready!(body.poll_next(cx)),
            Content::Control(body) => {
                let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
                return Poll::Ready(match frame {
                    None => {
                        this.account.finish();
                        None
                    }
                    Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                        Ok(data) => this.sent(data, None),
                        Err(frame) => frame,
                    })),
                    Some(Err(error)) => Some(Err(std::io::Error::other(error))),
                });
            }
        };
        Poll::Ready(match next {
            None => None,
            Some(Ok((bytes, source))) => Some(Ok(this.sent(bytes, source))),
            Some(Err(error)) => Some(Err(this.cut(&error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Control(body) => body.is_end_stream(),
            _ => self.left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.content, self.left) {
            (Content::Control(body), _) => body.size_hint(),
            (_, Some(left)) => SizeHint::with_exact(left),
            (_, None) => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.lost && (self.left == Some(0) || HttpBody::is_end_stream(self)) {
            self.account.finish();
        }
    }
}
