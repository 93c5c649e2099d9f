#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace moetap::cli {

// The list of a run's inputs (names and sizes) is in the journal's folder until the run is done. Recorded inputs are
// known only by their number, so a run goes on only with exactly the inputs that it was begun with.

/// Writes the list into the folder of the journal. Throws std::runtime_error if the disk refuses.
void write_input_list(const std::filesystem::path& journal, const std::vector<std::string>& files);

/// Throws CommandError that names the first input that differs. Without a list the run had no forward yet, so any
/// inputs will do.
void check_same_inputs(const std::filesystem::path& journal, const std::vector<std::string>& files);

}  // namespace moetap::cli
