#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moetap::cli {

/// True if the folder holds an analysis: the file analysis.json of `moetap analyze`.
bool is_analysis(const std::string& folder);

/// The analysis.json of a folder. Throws CommandError if the file is damaged or of another schema.
nlohmann::ordered_json read_analysis(const std::string& folder);

/// Cuts the tables of an analysis to `most_bytes` together, the longest first. Of a cut table stay the rows with the
/// largest weight, share, strength, count, importance or usage, in their order (else every so many-th); its study then
/// has `left_out`: {table: sentence}. Constant columns `component` are left out.
void cut_analysis(nlohmann::ordered_json& data, int64_t most_bytes);

/// Adds the studies of `other`, of the folder, to `data`; those that both have stay as they are in `data`, and
/// `notices` gets a line that names them.
void merge_analysis(nlohmann::ordered_json& data, const nlohmann::ordered_json& other, const std::string& folder,
                    std::vector<std::string>& notices);

}  // namespace moetap::cli
