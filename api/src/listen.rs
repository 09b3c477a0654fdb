//! Connections: how many, how long they may take to say what they want, and how they end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Sleep;

/// Connections at a time; more wait until one ends.
const CONNECTIONS_MAX: usize = 1_024;
/// How long a request's head may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// The longest head.
const HEAD_MAX: usize = 128 << 10;
/// How long a client may read nothing of its answer.
const READ_PATIENCE: Duration = Duration::from_secs(30);
/// How long answers may still take once we end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Answers until `ended`, and what was asked before that.
pub async fn serve(listener: TcpListener, router: Router, ended: impl Future<Output = ()>) {
    let answered = |stream, _, ending| connection(stream, router.clone(), ending);
    accept(listener, CONNECTIONS_MAX, END_PATIENCE, ended, answered).await;
}

/// Takes connections until `ended`, so many at a time, and waits for those that are open then. Each is told how many there are
/// beside it, and of the end.
pub async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    most: usize,
    patience: Duration,
    ended: impl Future<Output = ()>,
    answered: impl Fn(TcpStream, usize, watch::Receiver<bool>) -> F,
) {
    let (end, ending) = watch::channel(false);
    let mut open = JoinSet::new();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => break,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = listener.accept(), if open.len() < most => match accepted {
                Ok((stream, _)) => {
                    // Without it small answers wait for an acknowledgement.
                    let _ = stream.set_nodelay(true);
                    open.spawn(answered(stream, open.len(), ending.clone()));
                }
                Err(error) => {
                    // Too many open files, mostly: they end by themselves.
                    tracing::warn!("TG-API-CONNECTIONS: a connection could not be taken: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    // Everybody listens but those that have ended.
    let _ = end.send(true);
    let all = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, all).await.is_err() {
        tracing::warn!("answers that took longer than {patience:?} were cut off");
    }
}

async fn connection(stream: TcpStream, router: Router, mut ending: watch::Receiver<bool>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(Patient { stream, waiting: None }), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        // What goes wrong with a connection is its client's to see.
        _ = connection.as_mut() => return,
        _ = ending.wait_for(|ending| *ending) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// A stream that gives its client up where it takes nothing for long.
struct Patient {
    stream: TcpStream,
    /// Since when it takes nothing, and until when it may.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    /// What a write has come to, unless it has waited for too long.
    fn watched<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(READ_PATIENCE)));
        match waiting.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::from(io::ErrorKind::TimedOut))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, from);
        self.watched(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
