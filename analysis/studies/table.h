#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <string>
#include <variant>
#include <vector>

namespace moetap::analysis::studies {

inline constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();  // an empty cell of a real column
inline constexpr int64_t kNoInteger = std::numeric_limits<int64_t>::min();      // of an integer column

/// A column of a table and its cells. Text cells are never undefined.
struct Column {
  std::string name;
  std::variant<std::vector<int64_t>, std::vector<double>, std::vector<std::string>> cells;

  size_t size() const;
};

/// A table, kept by columns, which all have equally many cells. `name` is that of its file, without ".csv".
class Table {
 public:
  explicit Table(std::string name) : name_(std::move(name)) {}

  /// Adds a column, in the order of the file, and returns its cells to append to. The references stay valid when
  /// more columns are added.
  std::vector<int64_t>& integers(const std::string& column);
  std::vector<double>& reals(const std::string& column);
  std::vector<std::string>& texts(const std::string& column);

  const std::string& name() const { return name_; }
  std::vector<const Column*> columns() const;
  size_t num_rows() const;
  /// Null: there is no such column.
  const Column* find(const std::string& column) const;
  /// Appends the rows of a table with the same columns. Throws std::logic_error if they differ.
  void append(const Table& other);

 private:
  template <typename Value>
  std::vector<Value>& add(const std::string& column);

  std::string name_;
  std::deque<Column> columns_;  // a deque: adding one moves none
};

/// An array that is written as NAME.npy, float32, where the user asks for matrices.
struct Matrix {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;  // row-major
};

/// What a study found in one component.
struct Result {
  std::vector<Table> tables;
  std::vector<Matrix> matrices;
  std::string sentence;              // what was found, computed, with the numbers; no full stop is added
  std::vector<std::string> notices;  // what the reader of the tables must know, one line each
};

}  // namespace moetap::analysis::studies
