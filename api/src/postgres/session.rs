//! A session: its messages one after the other, statements that have names, portals that are read in parts.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::BytesMut;
use pgwire::messages::data::{DataRow, FieldDescription, NoData, ParameterDescription, RowDescription};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete, PortalSuspended,
    TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse, ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::ParameterStatus;
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use tidegate_engine::sql::guard::{Given, Parameters, Types};
use tidegate_engine::sql::session::{Count, Kind, Spoken, statements};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::opening::Opened;
use super::settings::SessionSettings;
use super::types::{self, as_written, pg_type, written_schema};
use super::values::{given, write_row};
use super::wire::{Gone, Wire};
use super::{Door, broken, errors, refused};
use crate::adhoc::wire::{Blame, Told};
use crate::adhoc::{Answer, Request};

/// Statements and portals that a session may have at a time.
const STATEMENTS_MAX: usize = 1_000;
const PORTALS_MAX: usize = 100;
/// Bytes of them, and of a name.
const HELD_MAX: usize = 8 << 20;
const NAME_MAX: usize = 256;
/// Values of lists in one Bind.
const VALUES_MAX: usize = 10_000;

/// What went wrong.
enum Fault {
    /// The session ends.
    Gone(Gone),
    /// The statement fails.
    Told(Told),
}

impl From<Gone> for Fault {
    fn from(gone: Gone) -> Self {
        Self::Gone(gone)
    }
}

impl From<Told> for Fault {
    fn from(told: Told) -> Self {
        Self::Told(told)
    }
}

type Done<T = ()> = Result<T, Fault>;

/// A statement that was prepared; without one it is empty.
struct Prepared {
    spoken: Option<Spoken>,
    /// The types of its parameters.
    types: Vec<u32>,
    /// The columns of its rows, if it gives any.
    columns: Option<SchemaRef>,
}

/// A statement with its values, on its way to its rows.
struct Portal {
    prepared: Arc<Prepared>,
    parameters: Parameters,
    /// How each column is written: as it is asked for, once for all, or one by one.
    formats: Vec<i16>,
    /// Its rows, once it was begun.
    cursor: Option<Cursor>,
    /// Whether it outlives its transaction.
    hold: bool,
    /// Of its values.
    bytes: usize,
}

/// An answer that is read in parts.
struct Cursor {
    /// None once it has been read to its end, or was out of time: it holds a turn.
    answer: Option<Answer>,
    columns: SchemaRef,
    /// What was read and not sent, from this row on.
    batch: Option<(RecordBatch, usize)>,
    /// Whether it was out of time.
    timed_out: bool,
}

/// Forgets a session's number when it ends.
struct Registered<'a>(&'a Door, i32);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.sessions.all().remove(&self.1);
    }
}

/// A query that may be cancelled while this lives.
struct Cancellable<'a>(&'a Door, i32);

impl<'a> Cancellable<'a> {
    fn new(door: &'a Door, pid: i32, query: Uuid) -> Self {
        if let Some((_, running)) = door.sessions.all().get_mut(&pid) {
            *running = Some(query);
        }
        Self(door, pid)
    }
}

impl Drop for Cancellable<'_> {
    fn drop(&mut self) {
        if let Some((_, running)) = self.0.sessions.all().get_mut(&self.1) {
            *running = None;
        }
    }
}

/// Answers until the client says good-bye.
pub async fn serve(opened: Opened, door: &Door, mut ending: watch::Receiver<bool>) {
    let Opened { wire, settings, pid } = opened;
    let _registered = Registered(door, pid);
    let status = TransactionStatus::Idle;
    let (prepared, portals) = (HashMap::new(), HashMap::new());
    let mut session = Session { wire, door, pid, settings, status, prepared, portals, skips: false };
    loop {
        let expires = session.expires();
        let message = tokio::select! {
            message = session.wire.next() => message,
            () = until(expires) => {
                session.expire();
                continue;
            }
            _ = ending.wait_for(|ending| *ending) => {
                let why = Told::new(Blame::Wait, "TG-QUERY-WORKER", "the server ends");
                Err(Gone::Told(why.hint("connect again")))
            }
        };
        let done = match message {
            Ok(PgWireFrontendMessage::Terminate(_)) => break,
            Ok(message) => session.hear(message).await,
            Err(gone) => Err(gone),
        };
        match done {
            Ok(()) => {}
            Err(Gone::Silent) => break,
            Err(Gone::Told(why)) => {
                let response = errors::response(&why, "FATAL", None);
                // Whoever has gone does not hear it.
                let _ = session.wire.put(PgWireBackendMessage::ErrorResponse(response));
                break;
            }
        }
    }
    session.wire.close().await;
}

/// Waits until a time, or for ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

struct Session<'a> {
    wire: Wire,
    door: &'a Door,
    pid: i32,
    settings: SessionSettings,
    status: TransactionStatus,
    prepared: HashMap<String, Arc<Prepared>>,
    portals: HashMap<String, Portal>,
    /// After an error nothing is heard before the next Sync.
    skips: bool,
}

impl Session<'_> {
    /// When the first of the open cursors is out of time.
    fn expires(&self) -> Option<Instant> {
        self.portals.values().filter_map(|portal| Some(portal.cursor.as_ref()?.answer.as_ref()?.deadline())).min()
    }

    /// Ends cursors that are out of time, which hold turns that others wait for.
    fn expire(&mut self) {
        for cursor in self.portals.values_mut().filter_map(|portal| portal.cursor.as_mut()) {
            if cursor.answer.as_ref().is_some_and(|answer| answer.deadline() <= Instant::now()) {
                (cursor.answer, cursor.batch, cursor.timed_out) = (None, None, true);
            }
        }
    }

    /// An error if one more cursor would leave no turn to others.
    fn check_cursors(&self) -> Result<(), Told> {
        let open =
            self.portals.values().filter(|portal| portal.cursor.as_ref().is_some_and(|cursor| cursor.answer.is_some()));
        let most = self.door.running.saturating_sub(1).max(1);
        if open.count() >= most {
            let why = format!("{most} cursors are open and not read to their ends, which is the limit");
            return Err(refused("TG-PG-LIMIT", why).hint("read or close one"));
        }
        Ok(())
    }

    /// Bytes of statements and values that are held.
    fn held(&self) -> usize {
        let texts = self
            .prepared
            .iter()
            .map(|(name, prepared)| name.len() + prepared.spoken.as_ref().map_or(0, |s| s.text.len()));
        texts.sum::<usize>() + self.portals.values().map(|portal| portal.bytes).sum::<usize>()
    }

    fn check_held(&self, name: &str, more: usize) -> Result<(), Told> {
        if name.len() > NAME_MAX {
            return Err(refused("TG-PG-LIMIT", format!("a name has more than {NAME_MAX} bytes")));
        }
        if self.held() + more > HELD_MAX {
            let why = format!("statements and values of more than {} MiB are held", HELD_MAX >> 20);
            return Err(refused("TG-PG-LIMIT", why).hint("close some"));
        }
        Ok(())
    }

    async fn hear(&mut self, message: PgWireFrontendMessage) -> Result<(), Gone> {
        // What is answered to many messages at once is sent as it grows.
        self.wire.send_much().await?;
        match message {
            PgWireFrontendMessage::Sync(_) => {
                self.skips = false;
                return self.ready();
            }
            _ if self.skips => return Ok(()),
            PgWireFrontendMessage::Flush(_) => return self.wire.send().await,
            PgWireFrontendMessage::Query(query) => {
                let told = self.simple(&query.query).await;
                self.tell(told, &query.query)?;
                return self.ready();
            }
            _ => {}
        }
        let (text, done) = match message {
            PgWireFrontendMessage::Parse(parse) => (parse.query.clone(), self.parse(parse).await),
            PgWireFrontendMessage::Bind(bind) => (String::new(), self.bind(bind)),
            PgWireFrontendMessage::Describe(describe) => (String::new(), self.describe(&describe)),
            PgWireFrontendMessage::Execute(execute) => {
                let name = execute.name.clone().unwrap_or_default();
                let spoken = self.portals.get(&name).and_then(|portal| portal.prepared.spoken.as_ref());
                (spoken.map_or_else(String::new, |spoken| spoken.text.clone()), self.execute(&execute).await)
            }
            PgWireFrontendMessage::Close(close) => (String::new(), self.close(&close)),
            _ => return Err(Gone::Told(broken("this message is not answered here"))),
        };
        self.skips = done.is_err();
        self.tell(done, &text)
    }

    /// Tells an error that is the statement's.
    fn tell(&mut self, done: Done, text: &str) -> Result<(), Gone> {
        match done {
            Ok(()) => Ok(()),
            Err(Fault::Gone(gone)) => Err(gone),
            Err(Fault::Told(why)) => {
                if self.status == TransactionStatus::Transaction {
                    self.status = TransactionStatus::Error;
                }
                self.wire.put(PgWireBackendMessage::ErrorResponse(errors::response(&why, "ERROR", Some(text))))
            }
        }
    }

    fn ready(&mut self) -> Result<(), Gone> {
        if self.status == TransactionStatus::Idle {
            self.portals.retain(|_, portal| portal.hold);
        }
        self.wire.put(PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(self.status)))
    }

    fn complete(&mut self, tag: impl Into<String>) -> Done {
        Ok(self.wire.put(PgWireBackendMessage::CommandComplete(CommandComplete::new(tag.into())))?)
    }

    /// An error unless the transaction can go on with this.
    fn check_transaction(&self, kind: &Kind) -> Done {
        let ends = matches!(kind, Kind::Commit | Kind::Rollback | Kind::RollbackTo);
        if self.status == TransactionStatus::Error && !ends {
            let why = refused(
                "TG-PG-TRANSACTION",
                "a statement of this transaction has failed, and nothing more is done in it",
            );
            return Err(why.hint("ROLLBACK ends it").into());
        }
        Ok(())
    }

    /// The simple protocol: all statements of a text, until one fails.
    async fn simple(&mut self, text: &str) -> Done {
        self.portals.remove("");
        let all = statements(text).map_err(Told::from)?;
        if all.is_empty() {
            return Ok(self.wire.put(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))?);
        }
        for spoken in all {
            self.check_transaction(&spoken.kind)?;
            let done = match &spoken.kind {
                Kind::Query => match self.begin_query(&spoken.text, Parameters::new(), None).await {
                    Ok(mut cursor) => {
                        self.put_columns(&cursor.columns.clone(), &[], false)?;
                        let sent = self.send_rows(&mut cursor, Count::All, &[], false).await;
                        match sent {
                            Ok(sent) => self.complete(format!("SELECT {sent}")),
                            Err(fault) => Err(fault),
                        }
                    }
                    Err(fault) => Err(fault),
                },
                kind => {
                    if let Some(columns) = self.columns_of(kind)? {
                        self.put_columns(&columns, &[], false)?;
                    }
                    self.perform(&spoken, Parameters::new(), &[]).await
                }
            };
            // Places are counted in the whole text.
            if let Err(Fault::Told(why)) = done {
                return Err(Fault::Told(placed(why, text, spoken.at)));
            }
            done?;
        }
        Ok(())
    }

    /// Begins a query. `columns` are those that were told of it, if any were.
    async fn begin_query(&mut self, sql: &str, parameters: Parameters, columns: Option<SchemaRef>) -> Done<Cursor> {
        let timeout_ms = self.settings.statement_timeout_ms().map(|ms| ms.min(self.door.timeout_ms));
        let request = Request { sql: sql.to_string(), parameters, limit: None, timeout_ms };
        let id = Uuid::new_v4();
        let _cancellable = Cancellable::new(self.door, self.pid, id);
        let answer = self.wire.wait(self.door.adhoc.ask(id, request)).await??;
        let columns = match columns {
            Some(told) if told.fields().len() != answer.schema.fields().len() => {
                return Err(refused("TG-PG-RESULT", "the columns of a prepared statement have changed")
                    .hint("prepare it again")
                    .into());
            }
            Some(told) => told,
            None => written_schema(&answer.schema),
        };
        Ok(Cursor { answer: Some(answer), columns, batch: None, timed_out: false })
    }

    /// Sends rows, or passes over them; how many.
    async fn send_rows(&mut self, cursor: &mut Cursor, count: Count, formats: &[i16], skips: bool) -> Done<usize> {
        let binary = binaries(formats, cursor.columns.fields().len());
        let fields = i16::try_from(binary.len()).map_err(|error| refused("TG-INTERNAL", error.to_string()))?;
        if cursor.timed_out {
            let why =
                Told::new(Blame::Query, "TG-QUERY-TIMEOUT", "the cursor was open for longer than a query may take");
            return Err(why.hint("read it at once, or ask for less").into());
        }
        let _cancellable = cursor.answer.as_ref().map(|answer| Cancellable::new(self.door, self.pid, answer.id()));
        let (mut sent, mut bytes) = (0, 0usize);
        while count == Count::All || matches!(count, Count::Rows(most) if sent < most) {
            if cursor.batch.as_ref().is_none_or(|(batch, row)| *row >= batch.num_rows()) {
                cursor.batch = None;
                let Some(answer) = &mut cursor.answer else { break };
                match self.wire.wait(answer.next()).await? {
                    Ok(Some(batch)) => cursor.batch = Some((as_written(&batch, &mut cursor.columns)?, 0)),
                    Ok(None) => {
                        let cut =
                            answer.truncated.then(|| format!("the answer has more than {} rows", answer.rows_max()));
                        cursor.answer = None;
                        if let Some(why) = cut {
                            return Err(refused("TG-QUERY-ROWS", why).hint("add LIMIT, or ask for less").into());
                        }
                        break;
                    }
                    Err(why) => {
                        cursor.answer = None;
                        return Err(why.into());
                    }
                }
            }
            let Some((batch, row)) = &mut cursor.batch else { break };
            if !skips {
                let mut data = BytesMut::with_capacity(64);
                write_row(batch, *row, &binary, &mut data)?;
                bytes += data.len();
                let most = self.door.bytes_max.saturating_mul(2);
                if bytes > most {
                    let why = format!("the answer has more than {} MiB", most >> 20);
                    return Err(refused("TG-QUERY-BYTES", why).hint("select fewer columns, or add LIMIT").into());
                }
                self.wire.put(PgWireBackendMessage::DataRow(DataRow::new(data, fields)))?;
            }
            (*row, sent) = (*row + 1, sent + 1);
            // Whoever reads too slowly for its query is cut off: a part of a message cannot be taken back.
            match cursor.answer.as_ref().map(Answer::deadline) {
                Some(deadline) => {
                    tokio::time::timeout_at(deadline, self.wire.send_much()).await.map_err(|_| Gone::Silent)??
                }
                None => self.wire.send_much().await?,
            }
        }
        Ok(sent)
    }

    /// Tells the columns; of a statement with parameters the digits of its decimals are not known before it is asked.
    fn put_columns(&mut self, columns: &Schema, formats: &[i16], open: bool) -> Done {
        let binary = binaries(formats, columns.fields().len());
        let fields = columns.fields().iter().zip(binary).map(|(field, binary)| {
            let known = pg_type(field.data_type());
            let name = field.name().replace('\0', " ");
            FieldDescription::new(
                name,
                0,
                0,
                known.oid,
                known.size,
                if open { -1 } else { known.modifier },
                i16::from(binary),
            )
        });
        Ok(self.wire.put(PgWireBackendMessage::RowDescription(RowDescription::new(fields.collect())))?)
    }

    /// The columns of what is no query.
    fn columns_of(&self, kind: &Kind) -> Done<Option<SchemaRef>> {
        Ok(match kind {
            Kind::Show(name) => {
                let (name, _) = self.settings.show(name)?;
                Some(Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, true)])))
            }
            Kind::Fetch { name, skips: false, .. } => self.portal(name)?.prepared.columns.clone(),
            _ => None,
        })
    }

    fn portal(&self, name: &str) -> Result<&Portal, Told> {
        self.portals.get(name).ok_or_else(|| no_portal(name))
    }

    /// Does what is no query.
    async fn perform(&mut self, spoken: &Spoken, parameters: Parameters, formats: &[i16]) -> Done {
        match &spoken.kind {
            Kind::Query => Err(refused("TG-INTERNAL", "a query is asked elsewhere").into()),
            Kind::Begin => {
                self.status = TransactionStatus::Transaction;
                self.complete("BEGIN")
            }
            Kind::Commit | Kind::Rollback => {
                let failed = self.status == TransactionStatus::Error;
                self.status = TransactionStatus::Idle;
                self.portals.retain(|_, portal| portal.hold);
                self.complete(if spoken.kind == Kind::Commit && !failed { "COMMIT" } else { "ROLLBACK" })
            }
            Kind::Savepoint => self.complete("SAVEPOINT"),
            Kind::Release => self.complete("RELEASE"),
            Kind::RollbackTo => {
                if self.status == TransactionStatus::Error {
                    self.status = TransactionStatus::Transaction;
                }
                self.complete("ROLLBACK")
            }
            Kind::Set { name, value, tag } => {
                let changed = match (name, value) {
                    (Some(name), value) => self.settings.set(name, value.as_deref())?.into_iter().collect(),
                    (None, None) => self.settings.reset(),
                    (None, Some(_)) => Vec::new(),
                };
                self.put_settings(changed)?;
                self.complete(*tag)
            }
            Kind::Show(name) => {
                let (_, value) = self.settings.show(name)?;
                let column: arrow::array::ArrayRef = Arc::new(arrow::array::StringArray::from(vec![value]));
                let row = RecordBatch::try_from_iter([("v", column)])
                    .map_err(|error| refused("TG-INTERNAL", error.to_string()))?;
                let mut data = BytesMut::new();
                write_row(&row, 0, &binaries(formats, 1), &mut data)?;
                self.wire.put(PgWireBackendMessage::DataRow(DataRow::new(data, 1)))?;
                self.complete("SHOW")
            }
            Kind::Discard => {
                self.portals.clear();
                self.prepared.clear();
                let changed = self.settings.reset();
                self.put_settings(changed)?;
                self.complete("DISCARD ALL")
            }
            Kind::Deallocate(Some(name)) => match self.prepared.remove(name) {
                Some(_) => self.complete("DEALLOCATE"),
                None => Err(no_statement(name).into()),
            },
            Kind::Deallocate(None) => {
                self.prepared.clear();
                self.complete("DEALLOCATE ALL")
            }
            Kind::Close(Some(name)) => match self.portals.remove(name) {
                Some(_) => self.complete("CLOSE CURSOR"),
                None => Err(no_portal(name).into()),
            },
            Kind::Close(None) => {
                self.portals.clear();
                self.complete("CLOSE CURSOR ALL")
            }
            Kind::Unlisten => self.complete("UNLISTEN"),
            Kind::Declare { name, query, hold } => {
                if self.status == TransactionStatus::Idle && !hold {
                    let why = refused("TG-PG-CURSOR", "a cursor lives in a transaction");
                    return Err(why.hint("BEGIN one, or declare it WITH HOLD").into());
                }
                self.check_cursors()?;
                let text = spoken.text.get(*query..).unwrap_or_default();
                let cursor = self.begin_query(text, parameters, None).await?;
                let columns = Some(cursor.columns.clone());
                let prepared = Arc::new(Prepared { spoken: None, types: Vec::new(), columns });
                let portal = Portal {
                    prepared,
                    parameters: Parameters::new(),
                    formats: Vec::new(),
                    cursor: Some(cursor),
                    hold: *hold,
                    bytes: 0,
                };
                self.add_portal(name, portal)?;
                self.complete("DECLARE CURSOR")
            }
            Kind::Fetch { name, count, skips } => {
                let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
                let sent = match &mut portal.cursor {
                    Some(cursor) => self.send_rows(cursor, *count, formats, *skips).await?,
                    None => 0,
                };
                self.portals.insert(name.clone(), portal);
                self.complete(format!("{} {sent}", if *skips { "MOVE" } else { "FETCH" }))
            }
        }
    }

    fn put_settings(&mut self, changed: Vec<(String, String)>) -> Done {
        for (name, value) in changed {
            self.wire.put(PgWireBackendMessage::ParameterStatus(ParameterStatus::new(name, value)))?;
        }
        Ok(())
    }

    async fn parse(&mut self, parse: Parse) -> Done {
        let name = parse.name.unwrap_or_default();
        if !name.is_empty() && self.prepared.contains_key(&name) {
            return Err(refused("TG-PG-DUPLICATE", format!("there is a prepared statement {name} already")).into());
        }
        if self.prepared.len() >= STATEMENTS_MAX {
            let why = format!("there are {STATEMENTS_MAX} prepared statements, which is the limit");
            return Err(refused("TG-PG-LIMIT", why).hint("DEALLOCATE some").into());
        }
        self.check_held(&name, parse.query.len())?;
        let mut all = statements(&parse.query).map_err(Told::from)?;
        let spoken = all.pop();
        if !all.is_empty() {
            return Err(refused("TG-SQL-SYNTAX", "a prepared statement is one statement").into());
        }
        if let Some(spoken) = &spoken {
            self.check_transaction(&spoken.kind)?;
        }
        let (query, at) = match &spoken {
            Some(Spoken { kind: Kind::Query, text, at }) => (Some(text.as_str()), *at),
            Some(Spoken { kind: Kind::Declare { query, .. }, text, at }) => (text.get(*query..), *at + *query),
            _ => (None, 0),
        };
        let (types, columns) = match query {
            Some(query) => {
                let known = parse.type_oids.iter().enumerate();
                let known: Types = known.filter_map(|(at, oid)| Some((at + 1, types::known(*oid)?))).collect();
                let id = Uuid::new_v4();
                let _cancellable = Cancellable::new(self.door, self.pid, id);
                let described = self.wire.wait(self.door.adhoc.describe(id, query, known)).await?;
                let described = described.map_err(|why| placed(why, &parse.query, at))?;
                let count = described.parameters.len().max(parse.type_oids.len());
                let of = |at: usize| match (parse.type_oids.get(at), described.parameters.get(at)) {
                    (Some(oid), _) if *oid != 0 && *oid != types::oid::UNKNOWN => *oid,
                    (_, Some(found)) => pg_type(found).oid,
                    _ => types::oid::TEXT,
                };
                ((0..count).map(of).collect(), Some(written_schema(&described.schema)))
            }
            None => (Vec::new(), None),
        };
        // A cursor's own columns are told by FETCH.
        let columns = columns.filter(|_| matches!(&spoken, Some(Spoken { kind: Kind::Query, .. })));
        self.prepared.insert(name, Arc::new(Prepared { spoken, types, columns }));
        Ok(self.wire.put(PgWireBackendMessage::ParseComplete(ParseComplete::new()))?)
    }

    fn bind(&mut self, bind: Bind) -> Done {
        let statement = bind.statement_name.unwrap_or_default();
        let prepared = self.prepared.get(&statement).cloned().ok_or_else(|| no_statement(&statement))?;
        let (wanted, has) = (prepared.types.len(), bind.parameters.len());
        if wanted != has {
            return Err(broken(format!("{has} values are bound, and the statement has {wanted} parameters")).into());
        }
        let columns = prepared.columns.as_ref().map_or(0, |columns| columns.fields().len());
        let shows =
            prepared.spoken.as_ref().is_some_and(|spoken| matches!(spoken.kind, Kind::Show(_) | Kind::Fetch { .. }));
        let odd = |formats: &[i16], count: usize| {
            !(formats.len() <= 1 || formats.len() == count) || formats.iter().any(|format| !matches!(format, 0 | 1))
        };
        if odd(&bind.parameter_format_codes, has) || odd(&bind.result_column_format_codes, columns) && !shows {
            return Err(broken("there is one format for all, or one for each, and they are 0 and 1").into());
        }
        let binary = binaries(&bind.parameter_format_codes, has);
        let parameters = bind.parameters.iter().zip(&prepared.types).zip(binary).enumerate();
        let parameters = parameters.map(|(at, ((bytes, oid), binary))| {
            Ok((format!("{}", at + 1), given(at + 1, *oid, binary, bytes.as_deref())?))
        });
        let parameters = parameters.collect::<Result<HashMap<String, Given>, Told>>()?;
        let name = bind.portal_name.unwrap_or_default();
        self.portals.remove("").filter(|_| !name.is_empty()).into_iter().for_each(drop);
        let lists = parameters.values().map(|given| if let Given::List(values) = given { values.len() } else { 0 });
        if lists.sum::<usize>() > VALUES_MAX {
            return Err(refused("TG-PG-LIMIT", format!("the lists have more than {VALUES_MAX} values")).into());
        }
        let bytes = bind.parameters.iter().flatten().map(|bytes| bytes.len()).sum();
        self.check_held(&name, bytes)?;
        let formats = bind.result_column_format_codes;
        self.add_portal(&name, Portal { prepared, parameters, formats, cursor: None, hold: false, bytes })?;
        Ok(self.wire.put(PgWireBackendMessage::BindComplete(BindComplete::new()))?)
    }

    fn add_portal(&mut self, name: &str, portal: Portal) -> Result<(), Told> {
        if !name.is_empty() && self.portals.contains_key(name) {
            return Err(refused("TG-PG-DUPLICATE", format!("there is a cursor {name} already")));
        }
        if self.portals.len() >= PORTALS_MAX {
            let why = format!("there are {PORTALS_MAX} cursors, which is the limit");
            return Err(refused("TG-PG-LIMIT", why).hint("CLOSE some"));
        }
        self.portals.insert(name.to_string(), portal);
        Ok(())
    }

    fn describe(&mut self, describe: &Describe) -> Done {
        let name = describe.name.clone().unwrap_or_default();
        let (prepared, formats) = if describe.target_type == TARGET_TYPE_BYTE_STATEMENT {
            let prepared = self.prepared.get(&name).cloned().ok_or_else(|| no_statement(&name))?;
            let types = ParameterDescription::new(prepared.types.clone());
            self.wire.put(PgWireBackendMessage::ParameterDescription(types))?;
            (prepared, Vec::new())
        } else {
            let portal = self.portal(&name)?;
            (portal.prepared.clone(), portal.formats.clone())
        };
        let columns = match (&prepared.columns, &prepared.spoken) {
            (Some(columns), _) => Some(columns.clone()),
            (None, Some(spoken)) => self.columns_of(&spoken.kind)?,
            (None, None) => None,
        };
        match columns {
            Some(columns) => self.put_columns(&columns, &formats, !prepared.types.is_empty()),
            None => Ok(self.wire.put(PgWireBackendMessage::NoData(NoData::new()))?),
        }
    }

    async fn execute(&mut self, execute: &Execute) -> Done {
        let name = execute.name.clone().unwrap_or_default();
        let mut portal = self.portals.remove(&name).ok_or_else(|| no_portal(&name))?;
        let Some(spoken) = portal.prepared.spoken.clone() else {
            self.portals.insert(name, portal);
            return Ok(self.wire.put(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))?);
        };
        self.check_transaction(&spoken.kind)?;
        if spoken.kind != Kind::Query {
            let (parameters, formats) = (portal.parameters.clone(), portal.formats.clone());
            self.portals.insert(name, portal);
            return self.perform(&spoken, parameters, &formats).await;
        }
        let mut cursor = match portal.cursor.take() {
            Some(cursor) => cursor,
            None => self.begin_query(&spoken.text, portal.parameters.clone(), portal.prepared.columns.clone()).await?,
        };
        let count = usize::try_from(execute.max_rows).ok().filter(|rows| *rows > 0).map_or(Count::All, Count::Rows);
        let sent = self.send_rows(&mut cursor, count, &portal.formats, false).await?;
        let suspended = count == Count::Rows(sent);
        portal.cursor = Some(cursor);
        self.portals.insert(name, portal);
        match suspended {
            true => Ok(self.wire.put(PgWireBackendMessage::PortalSuspended(PortalSuspended::new()))?),
            false => self.complete(format!("SELECT {sent}")),
        }
    }

    fn close(&mut self, close: &Close) -> Done {
        let name = close.name.clone().unwrap_or_default();
        // One that is not there is closed already.
        if close.target_type == TARGET_TYPE_BYTE_STATEMENT {
            self.prepared.remove(&name);
        } else {
            self.portals.remove(&name);
        }
        Ok(self.wire.put(PgWireBackendMessage::CloseComplete(CloseComplete::new()))?)
    }
}

/// Whether each column is written in its binary form.
fn binaries(formats: &[i16], count: usize) -> Vec<bool> {
    let of = |at: usize| formats.get(if formats.len() == 1 { 0 } else { at }).is_some_and(|format| *format == 1);
    (0..count).map(of).collect()
}

fn no_portal(name: &str) -> Told {
    refused("TG-PG-CURSOR", format!("there is no cursor {name}"))
}

fn no_statement(name: &str) -> Told {
    refused("TG-PG-STATEMENT", format!("there is no prepared statement {name}"))
}

/// An error of a statement that begins at a byte of a text, with its place in that text.
fn placed(why: Told, text: &str, at: usize) -> Told {
    let before = text.get(..at).unwrap_or_default();
    let lines = before.matches('\n').count() as u64;
    let columns = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64;
    let place = why.place.map(|(line, column)| (line + lines, if line == 1 { column + columns } else { column }));
    Told { place, ..why }
}
