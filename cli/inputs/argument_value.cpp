#include "cli/inputs/argument_value.h"

#include <ATen/core/jit_type.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <optional>
#include <string>
#include <vector>

namespace moetap::cli {
namespace {

using c10::IValue;
using c10::TypeKind;
using c10::TypePtr;

// What LibTorch accepts from Python is in torch::jit::toIValue (torch/csrc/jit/python/pybind_utils.cpp), which takes
// Python's objects and needs its interpreter. Here stand the same rules for the values that a file holds.

bool is_sequence(const IValue& value) {
  return value.isList() || value.isTuple();
}

std::vector<IValue> elements_of(const IValue& sequence) {
  if (sequence.isTuple()) {
    return sequence.toTupleRef().elements().vec();
  }
  const auto list = sequence.toList();
  return {list.begin(), list.end()};
}

/// As `elements_of`, also the rows of a tensor. Nothing for a value that has no elements.
std::optional<std::vector<IValue>> rows_of(const IValue& value) {
  if (is_sequence(value)) return elements_of(value);
  if (!value.isTensor() || value.toTensor().dim() == 0) return std::nullopt;
  std::vector<IValue> rows;
  for (const at::Tensor& row : value.toTensor().unbind()) rows.emplace_back(row);
  return rows;
}

std::string describe(const IValue& value) {
  if (value.isNone()) return "None";
  if (value.isTensor()) {
    return fmt::format("a {} tensor of shape [{}]", c10::toString(value.toTensor().scalar_type()),
                       fmt::join(value.toTensor().sizes(), ", "));
  }
  if (value.isBool()) return value.toBool() ? "True" : "False";
  if (value.isInt()) return fmt::format("the integer {}", value.toInt());
  if (value.isDouble()) return fmt::format("the float {}", value.toDouble());
  if (value.isString()) return fmt::format("the text \"{}\"", value.toStringRef().substr(0, 40));
  if (value.isList()) return fmt::format("a list of {}", value.toList().size());
  if (value.isTuple()) return fmt::format("a tuple of {}", value.toTupleRef().elements().size());
  if (value.isGenericDict()) return fmt::format("a dict of {}", value.toGenericDict().size());
  return fmt::format("a {}", value.tagKind());
}

std::string key_text(const IValue& key) {
  return key.isString() ? fmt::format("\"{}\"", key.toStringRef()) : key.isInt() ? std::to_string(key.toInt()) : "key";
}

class Coercion {
 public:
  Coercion(std::string path, c10::Device device) : path_(std::move(path)), device_(device) {}

  IValue to(const IValue& value, const TypePtr& type) {
    switch (type->kind()) {
      case TypeKind::TensorType:
        return tensor(value, type);
      case TypeKind::FloatType:
        return number(value, type).toDouble();
      case TypeKind::IntType:
        return integer(value, type);
      case TypeKind::BoolType:
        return truth(value, type);
      case TypeKind::ComplexType:
        return number(value, type).toComplexDouble();
      case TypeKind::NumberType:
        return value.isScalar() ? value : throw misfit(value, type);
      case TypeKind::DeviceObjType:
        return device(value, type);
      case TypeKind::ListType:
        return list(value, type);
      case TypeKind::TupleType:
        return tuple(value, type);
      case TypeKind::DictType:
        return dict(value, type);
      case TypeKind::OptionalType:
        return value.isNone() ? value : to(value, type->expectRef<c10::OptionalType>().getElementType());
      case TypeKind::UnionType: {
        const TypePtr inferred = infer(value);
        return inferred->isSubtypeOf(*type) ? to(value, inferred) : throw misfit(value, type);
      }
      case TypeKind::AnyType:
        return to(value, infer(value));
      default:  // text, None, and what a file cannot hold
        return value.type()->isSubtypeOf(*type) ? value : throw misfit(value, type);
    }
  }

 private:
  ArgumentError misfit(const IValue& value, const TypePtr& type) const {
    return ArgumentError(fmt::format("argument {} must be {}, got {}", path_, type->repr_str(), describe(value)));
  }

  /// `value` at a place within the current one.
  IValue inside(const std::string& place, const IValue& value, const TypePtr& type, bool may_be_none = true) {
    const size_t length = path_.size();
    path_ += fmt::format("[{}]", place);
    if (!may_be_none && value.isNone()) throw misfit(value, type);
    IValue result = to(value, type);
    path_.resize(length);
    return result;
  }

  IValue tensor(const IValue& value, const TypePtr& type) const {
    if (value.isNone()) return at::Tensor();
    return value.isTensor() ? IValue(value.toTensor().to(device_)) : throw misfit(value, type);
  }

  /// A number, or the only element of a tensor.
  at::Scalar number(const IValue& value, const TypePtr& type) const {
    at::Scalar number;
    if (value.isTensor() && value.toTensor().numel() == 1) {
      number = value.toTensor().item();
    } else if (value.isScalar()) {
      number = value.toScalar();
    } else {
      throw misfit(value, type);
    }
    return number.isComplex() && type->kind() == TypeKind::FloatType ? throw misfit(value, type) : number;
  }

  /// A float is no integer, but a tensor that holds one is, without its fraction.
  IValue integer(const IValue& value, const TypePtr& type) const {
    const at::Scalar found = number(value, type);
    if (found.isComplex() || (found.isFloatingPoint() && !value.isTensor())) throw misfit(value, type);
    if (!found.isFloatingPoint()) return found.toLong();
    const double truncated = found.toDouble();
    constexpr double kLimit = 9223372036854775808.0;  // 2^63
    return truncated >= -kLimit && truncated < kLimit ? IValue(static_cast<int64_t>(truncated))
                                                      : throw misfit(value, type);
  }

  IValue truth(const IValue& value, const TypePtr& type) const {
    if (value.isNone()) return false;
    const at::Scalar found = number(value, type);
    return found.isComplex()         ? found.toComplexDouble() != 0.0
           : found.isFloatingPoint() ? found.toDouble() != 0
                                     : found.toLong() != 0;
  }

  IValue device(const IValue& value, const TypePtr& type) const {
    if (value.isDevice()) return value;
    try {
      return c10::Device(value.toStringRef());
    } catch (const std::exception&) {  // no text, or no device
      throw misfit(value, type);
    }
  }

  IValue list(const IValue& value, const TypePtr& type) {
    const TypePtr element = type->expectRef<c10::ListType>().getElementType();
    const TypeKind kind = element->kind();
    const bool of_numbers = kind == TypeKind::IntType || kind == TypeKind::FloatType || kind == TypeKind::BoolType;
    c10::impl::GenericList result(element);
    const auto elements = of_numbers || kind == TypeKind::TensorType
                              ? is_sequence(value) ? std::optional(elements_of(value)) : std::nullopt
                              : rows_of(value);
    if (!elements) throw misfit(value, type);
    // A list of tensors has none that is undefined: its elements must be tensors.
    const bool may_be_none = kind != TypeKind::TensorType;
    for (size_t i = 0; i < elements->size(); ++i) {
      result.push_back(inside(std::to_string(i), elements->at(i), element, may_be_none));
    }
    return result;
  }

  IValue tuple(const IValue& value, const TypePtr& type) {
    const auto tuple_type = type->expect<c10::TupleType>();
    const auto elements = rows_of(value);
    if (!elements || elements->size() != tuple_type->elements().size()) throw misfit(value, type);
    std::vector<IValue> result;
    for (size_t i = 0; i < elements->size(); ++i) {
      result.push_back(inside(std::to_string(i), elements->at(i), tuple_type->elements()[i]));
    }
    return tuple_type->name() ? c10::ivalue::Tuple::createNamed(std::move(result), tuple_type)
                              : c10::ivalue::Tuple::create(std::move(result));
  }

  IValue dict(const IValue& value, const TypePtr& type) {
    if (!value.isGenericDict()) throw misfit(value, type);
    const auto& types = type->expectRef<c10::DictType>();
    c10::impl::GenericDict result(types.getKeyType(), types.getValueType());
    for (const auto& entry : value.toGenericDict()) {
      const std::string place = key_text(entry.key());
      result.insert(inside(place, entry.key(), types.getKeyType()), inside(place, entry.value(), types.getValueType()));
    }
    return result;
  }

  /// The type that Python gives a value where the argument does not say.
  TypePtr infer(const IValue& value) const {
    if (value.isTensor()) return c10::TensorType::get();
    if (value.isTuple()) {
      std::vector<TypePtr> types;
      for (const IValue& element : elements_of(value)) types.push_back(infer(element));
      return c10::TupleType::create(std::move(types));
    }
    if (value.isList()) return c10::ListType::create(infer_common(value, elements_of(value)));
    if (value.isGenericDict()) {
      std::vector<IValue> keys, values;
      for (const auto& entry : value.toGenericDict()) {
        keys.push_back(entry.key());
        values.push_back(entry.value());
      }
      const TypePtr key = infer_common(value, keys);
      return c10::DictType::create(key, infer_common(value, values));
    }
    return value.type();
  }

  /// The type of all of `elements`, which are those of `container`.
  TypePtr infer_common(const IValue& container, const std::vector<IValue>& elements) const {
    if (elements.empty()) {
      throw ArgumentError(fmt::format("argument {}: {} has no type of elements, and the method's signature names none",
                                      path_, describe(container)));
    }
    TypePtr common = infer(elements.front());
    for (const IValue& element : elements) {
      const auto both = c10::unifyTypes(common, infer(element));
      if (!both) {
        throw ArgumentError(fmt::format("argument {}: the elements of {} have no type in common: {} and {}", path_,
                                        describe(container), common->repr_str(), infer(element)->repr_str()));
      }
      common = *both;
    }
    return common;
  }

  std::string path_;
  c10::Device device_;
};

}  // namespace

c10::IValue argument_value(const c10::IValue& value, const c10::Argument& argument, c10::Device device) {
  return Coercion(fmt::format("\"{}\"", argument.name()), device).to(value, argument.type());
}

}  // namespace moetap::cli
