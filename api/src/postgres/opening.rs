//! How a session begins: TLS, the start-up message, who is it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use pgwire::api::auth::sasl::SCRAM_SHA_256_METHOD;
use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramSecret, ScramServerAuth, gen_salted_password};
use pgwire::messages::response::{ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey, Startup,
};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion};
use tidegate_engine::settings::PgWireSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use super::settings::SessionSettings;
use super::wire::{Gone, MESSAGE_MAX, Stream, Wire};
use super::{DATABASE, Door, broken, errors, refused};
use crate::adhoc::wire::{Blame, Told};

/// How long it may take until we know who it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the first eight bytes may ask for.
const SSL: i32 = 80_877_103;
const GSS: i32 = 80_877_104;

/// Who may come in.
pub struct Credentials {
    users: HashMap<String, Secret>,
    /// Makes up a salt for those that there are not, the same each time: so that nobody learns who there is.
    unknown: [u8; 32],
    tls: Option<TlsAcceptor>,
}

#[derive(Clone)]
struct Secret {
    salt: Vec<u8>,
    salted_password: Vec<u8>,
}

impl Secret {
    fn of(password: &str) -> Self {
        let salt: [u8; 16] = rand::random();
        Self { salt: salt.to_vec(), salted_password: gen_salted_password(password, &salt, SCRAM_ITERATIONS) }
    }
}

impl Credentials {
    /// As they are configured.
    pub fn read(settings: &PgWireSettings) -> Result<Self, String> {
        let users = settings.users.iter().map(|(user, password)| (user.clone(), Secret::of(password))).collect();
        let tls = match (&settings.tls_cert, &settings.tls_key) {
            (Some(cert), Some(key)) => {
                let read = |name: &str, path| {
                    fs::read(path)
                        .map_err(|error| format!("pgwire.{name}: {}: {error}", std::path::Path::display(path)))
                };
                let (chain, key) = (read("tls_cert", cert)?, read("tls_key", key)?);
                let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
                    .collect::<Result<_, _>>()
                    .map_err(|error| format!("pgwire.tls_cert: {error}"))?;
                // What it says may quote the key.
                let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| "pgwire.tls_key: there is no key in it")?;
                let provider = Arc::new(crypto::ring::default_provider());
                let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
                let config = config.map_err(|error| format!("pgwire.tls_cert: {error}"))?.with_no_client_auth();
                let mut config =
                    config.with_single_cert(chain, key).map_err(|error| format!("pgwire.tls_cert: {error}"))?;
                config.alpn_protocols = vec![b"postgresql".to_vec()];
                Some(TlsAcceptor::from(Arc::new(config)))
            }
            _ => None,
        };
        let unknown = rand::random();
        Ok(Self { users, unknown, tls })
    }

    /// What somebody must prove to know; of those that there are not, what nobody does.
    fn secret(&self, user: &str) -> Secret {
        let made_up = || {
            let hash = blake3::keyed_hash(&self.unknown, user.as_bytes());
            let (salt, _) = hash.as_bytes().split_at(16);
            Secret { salt: salt.to_vec(), salted_password: rand::random::<[u8; 32]>().to_vec() }
        };
        self.users.get(user).cloned().unwrap_or_else(made_up)
    }

    /// Whether somebody must say who they are.
    pub fn has_users(&self) -> bool {
        !self.users.is_empty()
    }
}

/// A session that may begin.
pub struct Opened {
    /// Its connection.
    pub wire: Wire,
    /// Its settings.
    pub settings: SessionSettings,
    /// Its number, by which it is cancelled.
    pub pid: i32,
}

/// Opens a session, if it is one and may be; a request to cancel is carried out.
pub async fn open(stream: TcpStream, door: &Door, full: bool) -> Option<Opened> {
    let opening = async {
        let mut wire = secured(stream, door).await?;
        let opened = begin(&mut wire, door, full).await;
        match opened {
            Ok(Some((settings, pid))) => Ok(Some(Opened { wire, settings, pid })),
            Ok(None) => Ok(None),
            Err(Gone::Told(why)) => {
                wire.put(PgWireBackendMessage::ErrorResponse(errors::response(&why, "FATAL", None)))?;
                wire.close().await;
                Err(Gone::Silent)
            }
            Err(gone) => Err(gone),
        }
    };
    // One that says nothing is not told anything.
    tokio::time::timeout(PATIENCE, opening).await.ok()?.ok()?
}

/// Under TLS, if it is asked for and there is a certificate. Only what was asked is read before that: what somebody has put
/// behind it must not count as said under TLS.
async fn secured(mut stream: TcpStream, door: &Door) -> Result<Wire, Gone> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    // A client that begins with TLS at once.
    if first[0] == 0x16 {
        let Some(tls) = &door.credentials.tls else { return Err(Gone::Silent) };
        let stream = tls.accept(stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"postgresql") {
            return Err(Gone::Silent);
        }
        return Ok(Wire::new(Box::new(stream), &[]));
    }
    // Each of both may be asked for once.
    for _ in 0..3 {
        let mut head = [0; 8];
        stream.read_exact(&mut head).await?;
        let [.., a, b, c, d] = head;
        match i32::from_be_bytes([a, b, c, d]) {
            SSL => match &door.credentials.tls {
                Some(tls) => {
                    stream.write_all(b"S").await?;
                    let stream: Box<dyn Stream> = Box::new(tls.accept(stream).await?);
                    return Ok(Wire::new(stream, &[]));
                }
                None => stream.write_all(b"N").await?,
            },
            GSS => stream.write_all(b"N").await?,
            _ => {
                let mut wire = Wire::new(Box::new(stream), &head);
                if door.credentials.tls.is_some() && !is_cancel(&head) {
                    let why = refused("TG-PG-PLAINTEXT", "this server is only spoken to under TLS");
                    let why = why.hint("connect with sslmode=require");
                    wire.put(PgWireBackendMessage::ErrorResponse(errors::response(&why, "FATAL", None)))?;
                    wire.close().await;
                    return Err(Gone::Silent);
                }
                return Ok(wire);
            }
        }
    }
    Err(Gone::Silent)
}

/// Whether the first bytes are those of a request to cancel, which clients send without TLS.
fn is_cancel(head: &[u8; 8]) -> bool {
    head[4..] == 80_877_102i32.to_be_bytes()
}

type Begun = Option<(SessionSettings, i32)>;

/// The start-up message and all that follows, until queries may come.
async fn begin(wire: &mut Wire, door: &Door, full: bool) -> Result<Begun, Gone> {
    let startup = match wire.next().await? {
        PgWireFrontendMessage::Startup(startup) => startup,
        PgWireFrontendMessage::CancelRequest(request) => {
            if let Some(query) = door.sessions.running(request.pid, &request.secret_key) {
                door.adhoc.cancel(query);
            }
            // Nobody is told whether there was one.
            wire.close().await;
            return Ok(None);
        }
        _ => return Err(Gone::Told(broken("a session begins with something else"))),
    };
    let version = negotiated(wire, &startup)?;
    wire.started(version);
    let mut parameters = startup.parameters;
    parameters.retain(|name, _| !name.starts_with("_pq_."));
    let Some(user) = parameters.remove("user").filter(|user| !user.is_empty()) else {
        return Err(Gone::Told(refused("TG-PG-PASSWORD", "no user is named")));
    };
    authenticated(wire, door, &user).await?;
    // Who they are is known: what follows tells more than strangers may hear.
    if full {
        let why = format!("there are {} connections, which is the limit", door.connections_max);
        return Err(Gone::Told(Told::new(Blame::Wait, "TG-QUERY-BUSY", why).hint("pgwire.connections_max sets it")));
    }
    if let Some(database) = parameters.remove("database").filter(|database| database != DATABASE) {
        let why = refused("TG-PG-DATABASE", format!("there is no database {}", shortened(&database)));
        return Err(Gone::Told(why.hint("there is tidegate")));
    }
    if parameters.remove("replication").is_some_and(|value| value != "false") {
        return Err(Gone::Told(refused("TG-QUERY-UNSUPPORTED", "there is no replication here")));
    }
    let settings = settings(&user, parameters)?;
    for (name, value) in settings.told() {
        wire.put(PgWireBackendMessage::ParameterStatus(ParameterStatus::new(name, value)))?;
    }
    let (pid, secret) = registered(door, version);
    wire.put(PgWireBackendMessage::BackendKeyData(BackendKeyData::new(pid, secret)))?;
    wire.put(PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(TransactionStatus::Idle)))?;
    wire.message_max = MESSAGE_MAX;
    Ok(Some((settings, pid)))
}

/// What a client sends may be long, and stands in a log.
fn shortened(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The version that is spoken.
fn negotiated(wire: &mut Wire, startup: &Startup) -> Result<ProtocolVersion, Gone> {
    let (major, minor) = (startup.protocol_number_major, startup.protocol_number_minor);
    if major != 3 {
        return Err(Gone::Told(broken(format!("protocol {major}.{minor} is not spoken here; 3.0 and 3.2 are"))));
    }
    let version = if minor >= 2 { ProtocolVersion::PROTOCOL3_2 } else { ProtocolVersion::PROTOCOL3_0 };
    let options: Vec<String> = startup.parameters.keys().filter(|name| name.starts_with("_pq_.")).cloned().collect();
    if !matches!(minor, 0 | 2) || !options.is_empty() {
        let newest = i32::from(version);
        wire.put(PgWireBackendMessage::NegotiateProtocolVersion(NegotiateProtocolVersion::new(newest, options)))?;
    }
    Ok(version)
}

/// Asks for the password, where there are users.
async fn authenticated(wire: &mut Wire, door: &Door, user: &str) -> Result<(), Gone> {
    let credentials = &door.credentials;
    if !credentials.has_users() {
        return wire.put(PgWireBackendMessage::Authentication(Authentication::Ok));
    }
    // One and the same for all that goes wrong.
    let wrong = || {
        let user = shortened(user);
        Gone::Told(refused("TG-PG-PASSWORD", format!("password authentication failed for user \"{user}\"")))
    };
    let mechanisms = vec![SCRAM_SHA_256_METHOD.to_string()];
    wire.put(PgWireBackendMessage::Authentication(Authentication::SASL(mechanisms)))?;
    let PgWireFrontendMessage::PasswordMessageFamily(message) = wire.next().await? else { return Err(wrong()) };
    let first = read(|| message.into_sasl_initial_response().ok()).ok_or_else(wrong)?;
    let data = first.data.filter(|_| first.auth_method == SCRAM_SHA_256_METHOD).ok_or_else(wrong)?;
    let Secret { salt, salted_password } = credentials.secret(user);
    let secret = ScramSecret::SaltedPassword { salt, salted_password };
    let server = ScramServerAuth::new();
    let (reply, server) = server.on_client_first_message_with_secret(&data, secret).map_err(|_| wrong())?;
    wire.put(PgWireBackendMessage::Authentication(Authentication::SASLContinue(reply.into())))?;
    let PgWireFrontendMessage::PasswordMessageFamily(message) = wire.next().await? else { return Err(wrong()) };
    let proof = read(|| message.into_sasl_response().ok()).ok_or_else(wrong)?;
    let Ok(signature) = server.on_client_final_message(&proof.data) else {
        tracing::warn!("TG-PG-PASSWORD: {} did not prove to know the password", shortened(user));
        return Err(wrong());
    };
    if !credentials.users.contains_key(user) {
        return Err(wrong());
    }
    wire.put(PgWireBackendMessage::Authentication(Authentication::SASLFinal(signature.into())))?;
    wire.put(PgWireBackendMessage::Authentication(Authentication::Ok))
}

/// What the library reads of a message; nothing where that panics.
fn read<T>(reading: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(reading)).ok().flatten()
}

/// The settings with which a client begins.
fn settings(user: &str, mut parameters: BTreeMap<String, String>) -> Result<SessionSettings, Gone> {
    let mut settings = SessionSettings::new(user);
    // Such as "-c name=value -c name=value".
    let options = parameters.remove("options").unwrap_or_default();
    let mut words = options.split_whitespace();
    while let Some(word) = words.next() {
        let pair = match word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            Some("") => words.next().unwrap_or_default(),
            Some(pair) => pair,
            None => {
                return Err(Gone::Told(refused("TG-PG-SETTING", format!("options: {} is not known", shortened(word)))));
            }
        };
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameters.insert(name.to_string(), value.to_string());
    }
    for (name, value) in parameters {
        // asyncpg quotes it.
        settings.begin(&name, value.trim_matches('\'')).map_err(Gone::Told)?;
    }
    Ok(settings)
}

/// A number and a secret for a session.
fn registered(door: &Door, version: ProtocolVersion) -> (i32, SecretKey) {
    let secret = match version {
        ProtocolVersion::PROTOCOL3_0 => SecretKey::I32(rand::random()),
        _ => SecretKey::Bytes(rand::random::<[u8; 32]>().to_vec().into()),
    };
    let mut all = door.sessions.all();
    loop {
        let pid: i32 = rand::random_range(1..i32::MAX);
        if let std::collections::hash_map::Entry::Vacant(free) = all.entry(pid) {
            free.insert((secret.clone(), None));
            return (pid, secret);
        }
    }
}
