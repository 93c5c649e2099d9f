#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>

namespace moetap::cli {

enum class PairKind { kSymmetric, kDirected };

/// The cells of a matrix of counts of pairs, [rows][columns], that a page keeps where the whole is too much: the
/// largest `most`, ties in the order of rows and columns, without zeros: {from: [...], to: [...], n: [...], note}. Of a
/// symmetric matrix both halves, without the diagonal. Null for a value that is no matrix.
nlohmann::ordered_json largest_cells(const nlohmann::ordered_json& matrix, PairKind kind, int64_t most);

/// The number of cells of a matrix; 0 for a value that is none.
int64_t num_cells(const nlohmann::ordered_json& matrix);

}  // namespace moetap::cli
