#pragma once

#include <string>
#include <vector>

#include "cli/exports/export_format.h"
#include "cli/exports/sample_places.h"

namespace moetap::cli {

/// Writes attn_weights.npy [L, B, S, S] float32 from a run with attention in full: row L is the attention layer with
/// the id of the router layer. Returns false, with a notice where that is not plain, if the run has no such attention
/// or it does not fit (a router layer without attention, keys that are no tokens of the sample). Memory: one matrix.
bool write_attention_matrices(const ExportJob& job, const std::string& component,
                              const std::vector<std::string>& layers, const SamplePlaces& places,
                              const std::string& path);

}  // namespace moetap::cli
