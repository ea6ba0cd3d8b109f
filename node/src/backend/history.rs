//! What the nodes did lately, in the port's terms: a list a figure, for charts.

use std::collections::BTreeSet;

use actors::history::Sample;
use cluster::gossip::figures::Figures;
use web::report::console::{HistoryReport, NodeHistory};

pub(super) fn report(samples: &[Sample]) -> HistoryReport {
    let nodes: BTreeSet<_> = samples
        .iter()
        .flat_map(|sample| sample.nodes.keys().copied())
        .collect();
    let of_node = |node| {
        let figures: Vec<Option<Figures>> = samples
            .iter()
            .map(|sample| sample.nodes.get(&node).copied())
            .collect();
        let list = |read: fn(&Figures) -> u32| {
            let told = figures.iter();
            told.map(|figures| figures.as_ref().map(read)).collect()
        };
        // Where there were no commits there is no latency.
        let latency = |read: fn(&Figures) -> u32| {
            let told = figures.iter();
            told.map(|figures| figures.as_ref().map(read).filter(|us| *us > 0))
                .collect()
        };
        NodeHistory {
            node: node.0,
            sessions: list(|figures| figures.sessions),
            logins: list(|figures| figures.logins),
            stanzas_received: list(|figures| figures.stanzas_received),
            stanzas_sent: list(|figures| figures.stanzas_sent),
            commits: list(|figures| figures.commits),
            commit_p50_us: latency(|figures| figures.commit_p50_us),
            commit_p99_us: latency(|figures| figures.commit_p99_us),
            cpu_permille: list(|figures| figures.cpu_permille),
            resident_kib: list(|figures| figures.resident_kib),
        }
    };
    HistoryReport {
        at_ms: samples.iter().map(|sample| sample.at_ms).collect(),
        nodes: nodes.into_iter().map(of_node).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cluster::node_id::NodeId;

    use super::*;

    #[test]
    fn lists_are_as_long_as_the_times() {
        let figures = |sessions, commit_p50_us| Figures {
            sessions,
            commit_p50_us,
            ..Figures::default()
        };
        let sample = |at_ms, nodes: &[(u64, Figures)]| Sample {
            at_ms,
            nodes: nodes
                .iter()
                .map(|(node, figures)| (NodeId(*node), *figures))
                .collect::<BTreeMap<_, _>>(),
        };
        let report = report(&[
            sample(1, &[(1, figures(5, 900))]),
            sample(2, &[(1, figures(6, 0)), (2, figures(7, 800))]),
        ]);
        assert_eq!(report.at_ms, [1, 2]);
        let nodes: Vec<u64> = report.nodes.iter().map(|node| node.node).collect();
        assert_eq!(nodes, [1, 2]);
        let [one, two] = &report.nodes[..] else {
            panic!("two nodes");
        };
        assert_eq!(
            (&one.sessions[..], &two.sessions[..]),
            (&[Some(5), Some(6)][..], &[None, Some(7)][..])
        );
        assert_eq!(one.commit_p50_us, [Some(900), None]);
        assert_eq!(two.cpu_permille, [None, Some(0)]);
    }
}
