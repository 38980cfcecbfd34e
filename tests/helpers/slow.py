"""Tests that take longest and repeat what quicker ones show in other ways.

They are marked as slow, as if each had the mark: `make test-slow` runs them.
The times are those of `pytest --durations=0`; a backend has a list of its own,
because TensorFlow is slow to trace and JAX slow to compile.
"""

import re

# Patterns of files and tests below `tests/`, from the start of their names.
SLOW = {
    "tensorflow": [
        r"cli/test_commands.py::test_(the_command_in_a_process|openvino"
        r"|other_formats\[onnx)",
        r"cli/test_options.py::test_every_door.*\[(command|train)",
        r"conformance/test_layers.py::test_unknown_batch_size\["
        r"(?!CapsuleLayer-(defaults|em)|ConvCapsules2D-dynamic|CapsuleDropout"
        r"|PrimaryCapsules-defaults|MatrixPrimaryCapsules-defaults"
        r"|CapsuleStack-concurrent|SharedKernel.*no-bias|CapsuleMask-longest)",
        r"conformance/test_models.py::test_model_trains_in_16_bits\["
        r"mixed_float16",
        r"conformance/test_layers.py::test_keras_layer_test\[CapsuleStack",
        r"engine/test_blocks.py::.*graph\]",
        r"engine/test_blocks.py::.*\[(0|6|12|17)-unknown\]",
        r"engine/test_blocks.py::test_layers_equal_the_same_at_once\["
        r"dense-em-unknown",
        r"engine/test_blocks.py::test_layers_that_are_not_trained.*\["
        r"dense-em-False",
        r"engine/test_blocks.py::test_the_engine_stops.*\[True",
        r"engine/test_derivatives.py::test_second_derivatives_in_a_graph\["
        r"dynamic-poses",
        r"engine/test_derivatives.py::test_a_saved_model_warns_of_nothing\["
        r"dynamic-None",
        r"layers/test_capsule_layer.py::test_learning_starts_for",
        r"layers/test_capsule_stack.py::test_all_weights_are_trained",
        r"layers/test_conv_capsules.py::test_one_window.*variational_bayes",
        r"layers/test_conv_capsules_transpose.py::test_unknown_sizes.*em\]",
        r"layers/test_conv_capsules_of_any_rank.py::test_equals_an_image.*"
        r"(variational|em\])",
        r"layers/test_masks.py::test_words\[dynamic",
        r"layers/test_masks.py::test_(padding_behind.*(same|4-3)|competing)",
        r"layers/test_masks.py::test_unknown_lengths\[dynamic-types",
        r"losses/test_margin_loss.py::test_model_fit\[(?!one-hot)",
        r"models/test_checks.py::test_labels_of_a_single_class.*"
        r"(bool|float32)",
        r"models/test_errors.py::test_integer_images_are_numbers_too",
        r"models/test_errors.py::test_trains_in_every_dtype\[float",
        r"models/test_errors.py::test_fits_integer_images\[bool",
        r"models/test_errors.py::test_terminate_on_nan_stops\[without",
        r"models/test_errors.py::test_rejects_images_of_another_shape_later"
        r".*7, 7",
        r"models/test_distributed.py::test_a_shared_batch\[2",
        r"models/test_functional.py::test_own_layers_quantized",
        r"models/test_functional.py::test_exports_before_any_call.*\[CapsNet",
        r"models/test_inputs.py::test_one_input_comes_in_every_structure\["
        r"(tuple|list)",
        r"models/test_saving.py::test_filters_of_quantization.*\[name",
        r"models/test_training.py::test_fits_labels_of_every_form\["
        r"(integers|column|one_hot)",
        r"models/test_training.py::test_(modes_agree|xla_on_demand)",
        r"models/test_training.py::test_fits_datasets_and_validates",
        r"routing/test_compiled.py::test_equals_the_dense_form\["
        r"(?!em-xla|stopped-xla-float32|.*eager)",
        r"routing/test_compiled.py::test_graphs_do_not_grow.*variational",
        r"routing/test_em.py::test_gradients_equal_numeric_ones\["
        r"(?!one-by-one-True)",
        r"routing/test_variational_bayes.py::test_gradients_equal_numeric_ones"
        r"\[(?!one-by-one-True-diagonal|two-and-a-rest-False-full)",
        r"test_benchmarks.py::test_what_shared_classes_cost",
        r"test_export.py::test_a_network_without_decoder",
        r"test_export.py::test_other_models_serve\[sequential",
        r"test_formats.py::test_(routings|a_batch_of_known_size|padded)",
        r"test_formats.py::test_a_fixed_batch\[(4|11)",
        r"test_formats.py::test_networks\[(?!CapsNet|EfficientCapsNet)",
        r"test_fuzz.py::test_faults.*\[shares",
        r"test_package.py::test_docstring_examples_run\[.*"
        r"(matrix_capsnet|deep_caps|inverted_attention_capsnet)",
        r"test_robustness.py::test_(ten_times|float16\[variational)",
        r"test_scale.py::test_(a_process_is_lost|training_on_files_goes_on)",
        r"test_third_party_routing.py::test_a_few_examples_at_a_time.*\["
        r"(graph|unknown-(matrices|conv))",
    ],
    "jax": [
        r"cli/test_commands.py::(?!test_a_run_has|test_export_serves)",
        r"conformance/test_models.py::test_model_fits_and_is_saved\["
        r"(?!CapsNet-kwargs0)",
        r"conformance/test_layers.py::test_training_in_16_bits\[.*"
        r"ConvCapsules[13]D",
        r"conformance/test_layers.py::test_keras_layer_test\[CapsuleStack",
        r"datasets/",  # the same with every backend
        r"engine/test_blocks.py::test_layers_equal_the_same_at_once\["
        r"(dense-em|conv-dynamic)",
        r"engine/test_blocks.py::test_windows_of_an_image",
        r"engine/test_data_parallel.py::.*\[others",
        r"engine/test_derivatives.py::test_(vmap|forward_mode).*\["
        r"(em|variational)",
        r"engine/test_derivatives.py::test_second_derivatives\[poses-dyn",
        r"engine/test_votes.py::test_second_derivatives",
        r"engine/test_windows.py::test_(sum_and_logsumexp|logsumexp_of)",
        r"layers/test_capsule_layer.py::test_"
        r"(16_bits|an_empty|equals_the_oracle\[(True-1|True-7-3-5))",
        r"layers/test_capsule_mask.py::test_(functional_model|longest_in_16)",
        r"layers/test_conv_capsules_transpose.py::"
        r"(?!test_equals_the_oracle\[shared-segcaps)",
        r"layers/test_keras_conventions.py::test_shapes_without_data",
        r"layers/test_masks.py::"
        r"(?!test_equals_the_layer_without_them\[vectors-dynamic)",
        r"layers/test_primary_capsules.py::test_gradient\[(valid-True|same)",
        r"layers/test_primary_capsules_of_any_rank.py::test_(unknown|pairs)",
        r"losses/test_margin_loss.py::test_gradient_is_the_numeric_one\[sum",
        r"models/test_checks.py::(?!test_labels_out_of_range)",
        r"models/test_distributed.py::test_a_shared_batch",
        r"models/test_functional.py::test_"
        r"(inputs_come|one_forward_pass_a_step\[Matrix|own_layers|several|names)",
        r"models/test_functional.py::test_lengths_that_mean",
        r"models/test_saving.py::",
        r"routing/test_as_before.py::.*"
        r"(matrices|variational|em\]|full_covariance)",
        r"routing/test_base.py::test_(iterate_yields.*variational|a_mixture)",
        r"routing/test_compiled.py::.*(variational|inverted|bfloat16|leaky)",
        r"routing/test_inverted_attention.py::test_(three_layers|extreme)",
        r"routing/test_dynamic.py::test_(float32_gradients|extreme_votes"
        r"|stop_gradient_leaves.*two-and|examples_do_not)",
        r"routing/test_em.py::test_(inactive|padding_takes|one_output)",
        r"routing/test_self_attention.py::test_(second|float32_gradients)",
        r"routing/test_self_routing.py::test_(hardly|padding)",
        r"routing/test_variational_bayes.py::test_(normalization|one_output"
        r"|equals_the_oracle\[full)",
        r"test_activations.py::test_(second_gradient|extreme|model_fit)",
        r"test_callbacks.py::test_(gathered|functions_are_made|training_goes)",
        r"test_examples.py::",
        r"test_export.py::test_(the_export_of|a_network_without|mixed"
        r"|batches_of|other_models)",
        r"test_fixtures.py::test_a_saved_file.*\[[\d.]+-"
        r"(?!CapsNet|routing-dynamic|pruned-types|texts)",
        r"test_formats.py::",
        r"test_third_party_routing.py::test_(stacks|a_few)",
    ],
    "torch": [r"test_formats.py::(?!test_networks\[EfficientCapsNet)"],
}


def is_slow(test_id: str, backend: str) -> bool:
    """Whether a test is in the table.

    Args:
        test_id: As pytest names it, from the root of the repository.
        backend: The backend of Keras.
    """
    name = test_id.removeprefix("tests/")
    return any(re.match(pattern, name) for pattern in SLOW[backend])
