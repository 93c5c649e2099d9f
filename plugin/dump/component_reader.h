#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "plugin/dump/dump_reader.h"
#include "plugin/dump/token_join.h"

namespace moetap::plugin {

/// The dump of one component, of all ranks: its tokens, numbered from 0 rank by rank, and what each layer did with
/// them. The numbers are the same in every layer: Note [Which rows are one token]. Reads ranges; memory is that of a
/// range and of one forward. Used by one thread. Errors are std::runtime_error with one line.
class ComponentReader {
 public:
  struct Source {
    std::string component;
    std::vector<std::pair<int64_t, std::string>> folders;  // rank, its folder of the dump; ascending
    std::string scratch_folder;
    std::function<void()> check = [] {};  // called now and then; may throw
  };
  explicit ComponentReader(Source source);

  int64_t num_tokens() const { return num_tokens_; }
  /// Tokens were joined from layers with rows of their own: another reader of the same dump would do that again.
  bool is_joined() const;
  /// What could not be read, one line each; the rest is read.
  const std::vector<std::string>& damage() const { return damage_; }
  bool has_layer(const std::string& layer) const { return layers_.contains(layer); }
  bool has_column(const std::string& layer, const char* what) const;  // "weights", "logits", "scores"
  int64_t width(const std::string& layer, const char* what) const;
  bool loops(const std::string& layer) const;  // it has a column `call`

  /// Labels of the tokens [first, first + n). phase is −1 where the token's rows are missing.
  void read_labels(int64_t first, int64_t n, TokenLabel* out) const;

  /// What a layer did with the tokens [first, first + n), in its first call: [n, width]. A token that it did not see
  /// has ids −1 and reals NaN. Slots beyond a row's own have ids −1 and weights 0.
  void read_ids(const std::string& layer, int64_t first, int64_t n, int64_t width, int32_t* out) const;
  void read_reals(const std::string& layer, const char* what, int64_t first, int64_t n, int64_t width,
                  float* out) const;

  /// Ranks that have tokens, ascending.
  struct RankTokens {
    int64_t rank = 0, first_token = 0, num_tokens = 0;
  };
  std::vector<RankTokens> ranks() const;

  /// The layer's own rows, in the order of ranks, then of the dump; calls of a loop are rows of their own. Rows of
  /// damaged shards are none of them.
  int64_t num_rows(const std::string& layer) const;
  int64_t num_rows(const std::string& layer, int64_t rank) const;
  struct Rows {
    std::vector<int64_t> token;  // −1: the row is missing
    std::vector<int64_t> call;
  };
  void read_row_tokens(const std::string& layer, int64_t first, int64_t n, Rows& rows) const;
  void read_row_labels(const std::string& layer, int64_t first, int64_t n, TokenLabel* out) const;
  void read_row_ids(const std::string& layer, int64_t first, int64_t n, int64_t width, int32_t* out) const;
  void read_row_reals(const std::string& layer, const char* what, int64_t first, int64_t n, int64_t width,
                      float* out) const;

 private:
  struct RankSeries {
    std::unique_ptr<DumpSeriesReader> reader;
    const TokenJoin* join = nullptr;  // null: the token is the row
    size_t place = 0;                 // in join->series
    int64_t first_token = 0;          // of the rank
  };
  /// A stretch of a layer's rows that lies in one series.
  struct Piece {
    const RankSeries* series = nullptr;
    int64_t first_row = 0;  // in the series
    int64_t num_rows = 0;
  };
  struct Rank {
    int64_t first_token = 0, num_tokens = 0;
    std::vector<std::unique_ptr<RankSeries>> series;
    std::unique_ptr<TokenJoin> join;
  };

  void add_rank(int64_t number, const std::string& folder);
  void add_pieces(const Rank& rank);
  template <typename Use>
  void for_rows(const std::string& layer, int64_t first, int64_t n, const Use& use) const;
  template <typename Value, typename Read>
  void gather(const std::string& layer, int64_t first, int64_t n, int64_t width, Value missing, Value* out,
              const Read& read) const;

  Source source_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::map<std::string, std::vector<Piece>> layers_;
  std::vector<std::string> damage_;
  int64_t num_tokens_ = 0;
};

}  // namespace moetap::plugin
