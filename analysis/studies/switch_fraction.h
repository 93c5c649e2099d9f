#pragma once

#include <memory>

#include "analysis/studies/study.h"

namespace moetap::analysis::studies {

/// How much routing changed between checkpoints, as LibMoE's toolkit has it: the share of a sample's slots, place by
/// place in the model's order, whose expert is another one; the mean over samples, each alike.
///   `switch_fraction`: run_a, run_b, component, layer, samples, switch_fraction.
///   `saturation`: run, last_run, component, layer, samples, position_match = 1 − the fraction against the last run.

/// Of two runs (their paths stand in the tables). Tokens that both have; samples of no known number are left out.
/// Order::kSamples.
std::unique_ptr<PairStudy> make_switch_fraction(const PairShape& shape, const StudyOptions& options);

/// Of LibMoE's logs, entries joined by task and doc_id (the runs' places stand in the tables): each run with the next,
/// and each with the last. A doc_id that a run has more than once (each rank may count from 0) is joined in order of
/// log and place, if both runs have it as often; a notice says so. Lists of two lengths are not compared, and counted.
/// State: 4 bytes a logged id.
std::unique_ptr<Study> make_logged_switch_fraction(const ComponentShape& shape, const StudyOptions& options);

}  // namespace moetap::analysis::studies
