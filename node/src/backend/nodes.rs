//! Members and operations, in the port's terms.

use actors::runtime::{
    self, DrainOptions, NewMember, NodeHandle, Operation, Plan, Progress, RemoveOptions,
};
use cluster::node_id::NodeId;
use cluster::version::Build;
use web::backend::BackendError;
use web::report::nodes::{NodeOperation, NodeReport, PlanStep, ProgressReport, UnderWay};

use super::{joining, not_done, versions};

/// A count as it is told.
fn count(count: usize) -> u64 {
    count as u64
}

pub(super) fn list(handle: &NodeHandle) -> Vec<NodeReport> {
    let members = handle.members().into_iter();
    let sessions = handle.sessions_by_node();
    let report = |member: runtime::MemberInfo| NodeReport {
        id: member.id,
        address: member.address,
        state: member.state.to_owned(),
        leaves: member.leaves,
        alive: member.alive,
        replicas: count(member.replicas),
        owns: count(member.owns),
        sessions: sessions.get(&member.id).copied(),
        build: member.build.map(versions::build),
    };
    members.map(report).collect()
}

fn operation(node: u64, operation: NodeOperation) -> Operation {
    let node = NodeId(node);
    match operation {
        NodeOperation::Drain {
            sessions_per_second,
            over_capacity,
        } => {
            let options = DrainOptions {
                sessions_per_second,
                over_capacity,
            };
            Operation::Drain(node, options)
        }
        NodeOperation::Undrain => Operation::Undrain(node),
        NodeOperation::Remove {
            dead,
            over_capacity,
        } => {
            let options = RemoveOptions {
                force_dead: dead,
                over_capacity,
            };
            Operation::Remove(node, options)
        }
        NodeOperation::Replace {
            with,
            over_capacity,
        } => Operation::Replace {
            old: node,
            new: NodeId(with),
            over_capacity,
        },
    }
}

pub(super) fn plan(
    handle: &NodeHandle,
    node: u64,
    wanted: NodeOperation,
) -> Result<Vec<PlanStep>, BackendError> {
    let plan = handle.plan(&operation(node, wanted)).map_err(not_done)?;
    Ok(steps(plan))
}

pub(super) fn plan_addition(
    handle: &NodeHandle,
    address: &str,
) -> Result<(u64, Vec<PlanStep>), BackendError> {
    let new = NewMember {
        address: joining::address(address)?.to_string(),
        addition: rand::random(),
        build: Build::own(),
    };
    let steps = steps(handle.plan(&Operation::Add(new)).map_err(not_done)?);
    let joins = steps.iter().find_map(|step| match step {
        PlanStep::Join { node } => Some(*node),
        _ => None,
    });
    Ok((joins.unwrap_or_default(), steps))
}

fn steps(plan: Plan) -> Vec<PlanStep> {
    let step = |step| match step {
        runtime::PlanStep::Join { node } => PlanStep::Join { node },
        runtime::PlanStep::HandOver { node, groups } => PlanStep::HandOver {
            node,
            groups: count(groups),
        },
        runtime::PlanStep::MoveSessions { node } => PlanStep::MoveSessions { node },
        runtime::PlanStep::Serve { node } => PlanStep::Serve { node },
        runtime::PlanStep::MoveReplica { group, from, to } => {
            PlanStep::MoveReplica { group, from, to }
        }
        runtime::PlanStep::Remove { node } => PlanStep::Remove { node },
    };
    plan.steps.into_iter().map(step).collect()
}

pub(super) async fn operate(
    handle: &NodeHandle,
    node: u64,
    wanted: NodeOperation,
) -> Result<(), BackendError> {
    let done = match operation(node, wanted) {
        Operation::Drain(node, options) => handle.drain(node, options).await,
        Operation::Undrain(node) => handle.undrain(node).await,
        Operation::Remove(node, options) => handle.remove(node, options).await,
        Operation::Replace {
            old,
            new,
            over_capacity,
        } => handle.replace(old, new, over_capacity).await,
        // Nodes are let in by their tokens.
        Operation::Add(_) => Ok(()),
    };
    done.map_err(not_done)
}

pub(super) fn progress(handle: &NodeHandle) -> ProgressReport {
    let progress: Progress = handle.progress();
    let under_way = |(node, state): &(u64, &str)| UnderWay {
        node: *node,
        state: (*state).to_owned(),
    };
    ProgressReport {
        done: progress.is_done(),
        under_way: progress.under_way.iter().map(under_way).collect(),
        groups_to_move: count(progress.groups_to_move),
        groups_moving: count(progress.groups_moving),
        entries_behind: progress.entries_behind,
        leaders_left: count(progress.leaders_left),
        sessions_left: progress.sessions_left,
    }
}
