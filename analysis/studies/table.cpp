#include "analysis/studies/table.h"

#include <stdexcept>
#include <type_traits>
#include <utility>

namespace moetap::analysis::studies {

size_t Column::size() const {
  return std::visit([](const auto& values) { return values.size(); }, cells);
}

template <typename Value>
std::vector<Value>& Table::add(const std::string& column) {
  columns_.push_back(Column{column, std::vector<Value>{}});
  return std::get<std::vector<Value>>(columns_.back().cells);
}

std::vector<int64_t>& Table::integers(const std::string& column) {
  return add<int64_t>(column);
}

std::vector<double>& Table::reals(const std::string& column) {
  return add<double>(column);
}

std::vector<std::string>& Table::texts(const std::string& column) {
  return add<std::string>(column);
}

std::vector<const Column*> Table::columns() const {
  std::vector<const Column*> columns;
  for (const Column& column : columns_) columns.push_back(&column);
  return columns;
}

size_t Table::num_rows() const {
  return columns_.empty() ? 0 : columns_.front().size();
}

const Column* Table::find(const std::string& column) const {
  for (const Column& found : columns_) {
    if (found.name == column) return &found;
  }
  return nullptr;
}

void Table::append(const Table& other) {
  if (columns_.size() != other.columns_.size()) throw std::logic_error(name_ + ": tables of different columns");
  for (size_t i = 0; i < columns_.size(); ++i) {
    Column& into = columns_[i];
    const Column& from = other.columns_[i];
    if (into.name != from.name || into.cells.index() != from.cells.index()) {
      throw std::logic_error(name_ + ": tables of different columns: " + into.name + ", " + from.name);
    }
    std::visit(
        [&](auto& values) {
          const auto& more = std::get<std::remove_reference_t<decltype(values)>>(from.cells);
          values.insert(values.end(), more.begin(), more.end());
        },
        into.cells);
  }
}

}  // namespace moetap::analysis::studies
