//! Changes that are written down: first the record, then the change, then what became of it.
//!
//! A client that goes away ends nothing: what was begun goes on to its outcome.

use std::future::Future;

use actix_web::rt;

use crate::access::Actor;
use crate::backend::{BackendError, ControlBackend};
use crate::error::ControlError;
use crate::report::access::{ChangeReport, OutcomeReport};

/// Makes a change with a record in the audit log. Without a record nothing is changed.
pub(crate) async fn recorded<B, T, F>(
    backend: &B,
    actor: Actor,
    (action, target): (&'static str, String),
    change: impl FnOnce(B) -> F + 'static,
) -> Result<T, ControlError>
where
    B: ControlBackend,
    T: 'static,
    F: Future<Output = Result<T, BackendError>>,
{
    let backend = backend.clone();
    // Whatever was asked for: it makes one line of the log.
    let target = target.replace(char::is_control, "\u{fffd}");
    let task = rt::spawn(async move {
        let Actor { name, from } = actor;
        tracing::info!(who = %name, %from, action, %target, "a change by an operator");
        let report = ChangeReport {
            who: name,
            from,
            action,
            target,
        };
        let key = backend.begin_record(report).await?;
        let changed = change(backend.clone()).await;
        let outcome = match &changed {
            Ok(_) => OutcomeReport::Done,
            Err(BackendError::Timeout) => OutcomeReport::Unknown,
            Err(error) => {
                let error = ControlError::Backend(error.clone());
                OutcomeReport::Refused(error.code().to_owned())
            }
        };
        backend.end_record(key, outcome).await;
        changed
    });
    match task.await {
        Ok(changed) => Ok(changed?),
        // A panic, which the log names: nobody knows how far it came.
        Err(_) => Err(ControlError::Backend(BackendError::Timeout)),
    }
}
