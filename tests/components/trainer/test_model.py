"""The network and its export: padding, alignment, learning, signatures as TensorFlow Serving runs them."""

import io
import itertools
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from benchmarks.plain import ConcatenatedColumns
from components.common.metrics import count_errors
from components.language.component import put
from components.language.learning import Learnt
from components.recogniser.model import ExportedModel
from components.trainer import export
from components.trainer.fitting import Fitting
from components.trainer.input_pipeline import survey
from components.trainer.model import Recogniser, build, ctc_loss, needed_frames
from components.trainer.recurrent import BidirectionalLSTM
from components.transform import geometry, preprocessing
from components.transform.settings import TransformConfig
from htr_client import HtrClient, ngrams
from htr_client.beam import default_decoder
from htr_client.decoding import Alphabet, BestPath
from htr_client.language import LanguageModel
from serving.runner import LoadedModel, RunnerOptions
from serving.server import EmbeddedServer
from serving.version_directory import SETTINGS_FILE, WARMUP_FILE
from tests.components.toy import COLD, SMALL, WORDS, drawn
from tests.conftest import drawn_image


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return build(SMALL, classes=5, height=32)


@pytest.fixture(scope="module")
def soft():
    """The same network, for which images are softened."""
    keras.utils.set_random_seed(3)
    return build(SMALL.model_copy(update={"softening": 0.2}), classes=5, height=32)


@pytest.mark.parametrize("kind", [Recogniser, ConcatenatedColumns])
def test_a_new_network_has_the_weights_that_its_layers_ask_for(kind):
    class Traced(kind):
        """Keras finds them by tracing the whole network."""

        build = keras.Model.build

    traced = Traced(SMALL, 5)
    traced({"images": tf.zeros([1, 33, 32, 1]), "widths": tf.constant([32])}, training=True)
    new = build(SMALL, 5, 33, kind)
    assert [(v.path, v.shape) for v in new.weights] == [(v.path, v.shape) for v in traced.weights]
    variances = [v.numpy() for v in new.weights if v.path.endswith("moving_variance")]
    assert variances and all((variance == 1).all() for variance in variances), "no image has gone through it"


def test_recurrent_layers_and_their_gradients_are_those_of_keras():
    random = np.random.default_rng(5)
    layer = BidirectionalLSTM(4)
    layer.build((None, None, 3))
    for weight in layer.weights:
        weight.assign(random.normal(size=weight.shape))
    x, frames = tf.constant(random.normal(size=(3, 7, 3)).astype("float32")), tf.constant([7, 4, 1])
    wanted = tf.constant(random.normal(size=(3, 7, 8)).astype("float32"))

    def keras_layers():
        """Row by row without padding, the backward one over the reversed row."""
        rows = []
        for row, length in zip(x, frames.numpy(), strict=True):
            valid = row[tf.newaxis, :length]
            both = tf.concat([layer.forward(valid), layer.backward(valid[:, ::-1])[:, ::-1]], -1)
            rows.append(tf.pad(both, [(0, 0), (0, 7 - length), (0, 0)]))
        return tf.concat(rows, 0)

    found = []
    for read in (lambda: layer(x, frames), keras_layers):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = read() * tf.sequence_mask(frames, 7, tf.float32)[..., tf.newaxis]
            loss = tf.reduce_sum(y * wanted)
        variables = [x, *(weight.value for weight in layer.weights)]
        found.append([y, *(tf.convert_to_tensor(g) for g in tape.gradient(loss, variables))])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["model", "soft"])
def test_padding_does_not_change_a_result(name, request):
    model, random = request.getfixturevalue(name), np.random.default_rng(0)
    image = random.random((1, 32, 60, 1)).astype("float32")
    alone = model({"images": image, "widths": tf.constant([60])})
    padded = np.concatenate([np.pad(image, [(0, 0), (0, 0), (0, 68), (0, 0)]), random.random((1, 32, 128, 1))])
    beside = model({"images": padded.astype("float32"), "widths": tf.constant([60, 128])})
    assert alone["frames"].numpy().tolist() == [15] and beside["frames"].numpy().tolist() == [15, 32]
    np.testing.assert_allclose(alone["logits"][0, :15], beside["logits"][0, :15], atol=1e-4)


def test_what_is_transcribed_is_softened_and_what_is_trained_on_is_not(model, soft):
    images = np.zeros((2, 32, 64, 1), "float32")
    images[:, 4:28, 4:60] = np.random.default_rng(1).random((2, 24, 56, 1))
    widths = tf.constant([64, 64])
    blur = np.array([0.2, 0.6, 0.2])
    across = np.tensordot(blur, [np.roll(images, by, 2) for by in (-1, 0, 1)], 1)
    both = np.tensordot(blur, [np.roll(across, by, 1) for by in (-1, 0, 1)], 1).astype("float32")
    by_hand, ours = model({"images": both, "widths": widths}), soft({"images": images, "widths": widths})
    np.testing.assert_allclose(ours["logits"], by_hand["logits"], atol=1e-5)
    assert np.abs(model({"images": images, "widths": widths})["logits"] - ours["logits"]).max() > 1e-3
    trained = [one.stages[0](tf.constant(images), tf.ones([2, 1, 64, 1]), training=True)[0] for one in (model, soft)]
    np.testing.assert_array_equal(*trained)


@pytest.mark.parametrize("width", [1, 3, 4, 5, 63, 64, 128])
def test_frames_are_what_the_plain_arithmetic_says(model, width):
    outputs = model({"images": tf.zeros([1, 32, 128, 1]), "widths": tf.constant([width])})
    assert int(outputs["frames"][0]) == -(-width // geometry.COLUMNS_PER_FRAME)


def brute_force_loss(logits, frames, label):
    """Negative log of the summed probability of all paths that collapse to the label."""
    log_probs = logits[:frames] - np.logaddexp.reduce(logits[:frames], axis=1, keepdims=True)
    blank = logits.shape[1] - 1
    total = -np.inf
    for path in itertools.product(range(blank + 1), repeat=frames):
        collapsed = [c for c, _ in itertools.groupby(path) if c != blank]
        if collapsed == list(label):
            total = np.logaddexp(total, sum(log_probs[t, c] for t, c in enumerate(path)))
    return -total


@pytest.mark.parametrize("label", [[0], [1, 0], [0, 0], [1, 1, 0]])
@pytest.mark.parametrize("frames", [4, 5])
def test_ctc_loss_is_the_sum_over_all_paths(label, frames):
    logits = np.random.default_rng(len(label)).normal(size=(1, 6, 3)).astype("float32")
    labels = np.full((1, 4), -1)
    labels[0, : len(label)] = label
    loss = ctc_loss(tf.constant(labels), tf.constant(logits), tf.constant([frames]))
    assert float(loss[0]) == pytest.approx(brute_force_loss(logits[0], frames, label), abs=1e-3)


def test_needed_frames_count_repeats():
    texts = ["a", "aa", "abab", "aabb", ""]
    labels = np.full((5, 4), -1)
    for row, text in enumerate(texts):
        labels[row, : len(text)] = [ord(c) - 97 for c in text]
    assert needed_frames(tf.constant(labels)).numpy().tolist() == [geometry.needed_frames(t) for t in texts]


def test_best_path_and_posterior_agree_with_the_client():
    random = np.random.default_rng(5)
    log_probs = np.log(random.dirichlet([0.15] * 5, size=(40, 12))).astype("float32").clip(-40)
    frames = random.integers(0, 13, 40).astype("int32")
    alphabet = ["a", "b", "é", " "]
    text, confidence = export.best_path(tf.constant(log_probs), tf.constant(frames), tf.constant(alphabet))
    decoded = BestPath().decode(log_probs, frames, Alphabet(alphabet))
    assert [t.decode() for t in text.numpy()] == [d.text for d in decoded]
    np.testing.assert_allclose(confidence, [d.confidence for d in decoded], atol=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, toy):
    """A network trained on the toy script through Transform, as Trainer does it, and its export."""
    folder = tmp_path_factory.mktemp("trained")
    transform = TransformConfig()
    tft_output = tft.TFTransformOutput(str(toy / "tft"))
    alphabet = preprocessing.read_alphabet(tft_output)
    source = survey([str(toy / "train.gz")], tft_output.transformed_feature_spec(), transform)
    keras.utils.set_random_seed(1)
    network = build(SMALL, len(alphabet) + 1, 32)
    fitting = Fitting(network, source, source, alphabet, COLD)
    fitting.run()
    served = export.ServedModel(network, alphabet, transform)
    export.save(served, str(folder / "export"), [drawn("abc", 0), drawn("b", 1)], "htr")
    return {"folder": folder, "alphabet": alphabet, "source": source, "fitting": fitting}


def test_it_learns_a_toy_script(trained):
    assert trained["alphabet"] == ["a", "b", "c"]
    fitting = trained["fitting"]
    assert fitting.history[0]["validation_cer"] > 0.3
    assert fitting.best_cer < 0.02
    assert fitting.validate().rate == pytest.approx(fitting.best_cer)


@pytest.fixture(scope="module")
def session(trained):
    """The export as TensorFlow Serving runs it: in a TF1 session."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(trained["folder"] / "export"))

    def call(signature, **inputs):
        definition = loaded.signature_def[signature]
        feed = {definition.inputs[name].name: value for name, value in inputs.items()}
        return session.run({name: t.name for name, t in definition.outputs.items()}, feed)

    yield call
    session.close()


@pytest.mark.parametrize("batch", [1, 2, 17])
def test_export_answers_batches_of_different_sizes(session, batch):
    words = (WORDS * 3)[:batch]
    images = [drawn(word, 900 + i) for i, word in enumerate(words)]
    answer = session("serving_default", image_bytes=images)
    assert answer["log_probs"].shape == (batch, 32, 4)
    np.testing.assert_allclose(np.exp(answer["log_probs"]).sum(axis=2), 1, atol=1e-4)
    texts = session("transcribe", image_bytes=images)
    assert count_errors(words, [t.decode() for t in texts["text"]]).rate < 0.1
    assert ((texts["confidence"] > 0) & (texts["confidence"] <= 1)).all()


def test_no_images_are_no_texts_in_every_signature(session):
    nothing = np.array([], object)
    shapes = {
        (signature, output): array.shape
        for signature in ("serving_default", "transcribe")
        for output, array in session(signature, image_bytes=nothing).items()
    }
    shapes |= {("evaluate", output): array.shape for output, array in session("evaluate", examples=nothing).items()}
    shapes |= {
        (signature, output): array.shape
        for signature in ("alphabet", "language_model")
        for output, array in session(signature, query=nothing).items()
    }
    assert len(shapes) == 8 and all(shape[0] == 0 for shape in shapes.values()), shapes


def test_an_image_that_cannot_be_decoded_is_an_empty_row(session):
    cmyk = io.BytesIO()
    Image.new("CMYK", (90, 30)).save(cmyk, "jpeg")
    texts = session("transcribe", image_bytes=[drawn("ab", 3), cmyk.getvalue()])
    assert texts["text"].tolist() == [b"ab", b""] and texts["confidence"][1] == 0


def test_signatures_agree_with_each_other_and_with_the_client(session):
    images = [drawn(word, 50 + i) for i, word in enumerate(WORDS)] + [drawn("ab", 1)[:60], b""]
    answer, texts = session("serving_default", image_bytes=images), session("transcribe", image_bytes=images)
    characters = session("alphabet", query=["", "anything"])["characters"]
    assert characters.shape == (2, 3)
    alphabet = Alphabet(c.decode() for c in characters[0])
    decoded = BestPath().decode(answer["log_probs"], answer["frames"], alphabet)
    assert [d.text for d in decoded] == [t.decode() for t in texts["text"]]
    np.testing.assert_allclose([d.confidence for d in decoded], texts["confidence"], atol=1e-4)
    assert answer["frames"][-2:].tolist() == [0, 0] and texts["confidence"][-2:].tolist() == [0, 0]
    examples = [
        tf.train.Example(
            features=tf.train.Features(feature={"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[p]))})
        ).SerializeToString()
        for p in images
    ]
    evaluated = session("evaluate", examples=examples)
    assert evaluated["text"].shape == (10, 1)
    assert evaluated["text"][:, 0].tolist() == texts["text"].tolist()
    np.testing.assert_allclose(evaluated["confidence"][:, 0], texts["confidence"], atol=1e-6)


def test_batch_neighbours_do_not_change_a_text(session):
    images = [drawn(word, 70 + i) for i, word in enumerate(WORDS)]
    together = session("serving_default", image_bytes=images)["log_probs"]
    for i, alone in enumerate(images):
        np.testing.assert_allclose(
            session("serving_default", image_bytes=[alone])["log_probs"][0], together[i], atol=1e-4
        )


def layer_by_layer(network, images, widths):
    """Logits and frames of the network's own layers as training uses them, without what inference does otherwise."""
    x = images
    for stage in network.stages:
        x = tf.nn.relu(stage.normalisation(stage.convolution(x), training=False))
        if max(stage.pool) > 1:
            x = tf.nn.max_pool2d(x, stage.pool, stage.pool, "VALID")
        widths = -(-widths // (stage.stride * stage.pool[1]))
        x *= tf.sequence_mask(widths, tf.shape(x)[2], x.dtype)[:, tf.newaxis, :, tf.newaxis]
    x = network.frames_of(x)
    for layer in network.recurrent:
        x = layer(x, widths)
    return network.classes(x).numpy(), widths.numpy()


@pytest.mark.parametrize("preset", ["word", "line"])
def test_an_export_computes_what_the_trained_network_does(preset, tmp_path):
    """Random weights and statistics of the normalisation; through Transform's PNGs and layers, and as it is served."""
    keras.utils.set_random_seed(4)
    random, alphabet, config = np.random.default_rng(4), list("abcdé "), TransformConfig(preset=preset)
    network = build(SMALL, len(alphabet) + 1, config.height)
    for variable in network.variables:
        if "normalisation" in variable.path:
            variable.assign(random.uniform(0.3, 1.5, variable.shape))
    words = [drawn(word, 300 + i) for i, word in enumerate(WORDS)]
    pages = [drawn_image(width, height) for width, height in ((400, 40), (90, 30), (30, 60), (700, 20))]
    files = [*words, *(tf.io.encode_png(page[..., np.newaxis]).numpy() for page in pages)]
    files += [tf.io.encode_jpeg(pages[0][..., np.newaxis]).numpy(), b"no image"]
    batch = preprocessing.decode_batch(preprocessing.resize_images(tf.constant(files), config), config)
    logits, frames = layer_by_layer(network, *batch)
    # Random layers see little difference between frames: of the classes each must win somewhere.
    valid = np.concatenate([row[:own] for row, own in zip(logits, frames, strict=True)])
    kernel, spread = network.classes.kernel.numpy(), valid.std(axis=0) / 2
    network.classes.kernel.assign(kernel / spread)
    network.classes.bias.assign(-valid.mean(axis=0) / spread)
    log_probs = tf.nn.log_softmax(layer_by_layer(network, *batch)[0] / 1.3).numpy()
    expected = BestPath().decode(log_probs, frames, Alphabet(alphabet))
    assert len({result.text for result in expected}) > 4 and len(set(frames.tolist())) > 4
    export.save(export.ServedModel(network, alphabet, config, 1.3), str(tmp_path), [drawn("ab", 0)], "htr")
    model = LoadedModel(tmp_path, RunnerOptions())
    assert model.warm_up() == 6
    for together in ([*range(len(files))], [0], [4], [len(files) - 1]):
        for signature, names in (("serving_default", ("log_probs", "frames")), ("transcribe", ("text", "confidence"))):
            found = model.signature(signature)
            feed = {found.inputs[0].tensor: np.array([files[i] for i in together], object)}
            first, second = model.run(feed, [found.outputs[name] for name in names])
            for row, i in enumerate(together):
                if signature == "transcribe":
                    assert first[row].decode() == expected[i].text
                    assert second[row] == pytest.approx(expected[i].confidence, abs=1e-4)
                else:
                    valid = frames[i]
                    assert second[row] == valid
                    np.testing.assert_allclose(np.exp(first[row, :valid]), np.exp(log_probs[i, :valid]), atol=1e-4)
                    assert (first[row, valid:].argmax(1) == len(alphabet)).all(), "certain blanks"
    model.close()


def test_wrong_ranks_are_refused_not_fatal(session):
    for hostile in (b"x", [[b"x"]]):
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
            session("transcribe", image_bytes=hostile)
    assert session("transcribe", image_bytes=[drawn("ab", 3)])["text"].tolist() == [b"ab"]


def test_export_holds_warmup_requests_that_it_answers(trained, session):
    from tensorflow_serving.apis import prediction_log_pb2

    path = trained["folder"] / "export" / WARMUP_FILE
    requests = [
        prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    asked = {"serving_default", "transcribe", "alphabet", "language_model"}
    assert {request.model_spec.signature_name for request in requests} == asked
    for request in requests:
        inputs = {name: list(tensor.string_val) for name, tensor in request.inputs.items()}
        assert session(request.model_spec.signature_name, **inputs)


def test_an_export_has_no_language_model_of_its_own(session):
    assert session("language_model", query=["", "anything"])["model_bytes"].tolist() == [b"", b""]


@pytest.mark.parametrize("kind", ["new", "none", "earlier release"])
def test_clients_get_the_language_model_that_is_put_into_an_export(trained, tmp_path, kind):
    """Our client against our server: a version with one, one without, and one that lacks the signature."""
    alphabet, directory = Alphabet(trained["alphabet"]), tmp_path / "htr" / "1"
    learnt = LanguageModel(ngrams.count(WORDS * 3, alphabet, 3), 0.3, 0.45)
    shutil.copytree(trained["folder"] / "export", directory)
    if kind == "earlier release":
        graph = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
        del graph.meta_graphs[0].signature_def["language_model"]
        (directory / "saved_model.pb").write_bytes(graph.SerializeToString())
        (directory / WARMUP_FILE).unlink()
    else:
        (directory / SETTINGS_FILE).write_text('{"temperature": 1.1}')
        put(Learnt(learnt if kind == "new" else None, {"weight": 0.3}), str(directory))
        settings = json.loads((directory / SETTINGS_FILE).read_text())
        assert settings == {"temperature": 1.1, "language_model": {"weight": 0.3}}
    told = []

    def decoder_of(own):
        told.append(own)
        return default_decoder(own)

    served = EmbeddedServer(model_name="htr", model_base_path=str(directory.parent), port=0)
    with served as server, HtrClient(server.address, decoder=decoder_of) as client:
        assert [client.transcribe(drawn(word, 3)).text for word in ("ab", "cab")] == ["ab", "cab"]
    model = ExportedModel(str(directory))
    for found in (*told, model.language_model):
        assert (found.to_bytes() if found else None) == (learnt.to_bytes() if kind == "new" else None)
    assert len(told) == 1
    log_probs, frames = model.log_probs([drawn("ab", 3)])
    assert model.decoder().decode(log_probs, frames, model.alphabet)[0].text == "ab"


def test_export_has_no_optimiser_state(trained):
    reader = tf.train.load_checkpoint(str(trained["folder"] / "export" / "variables" / "variables"))
    names = list(reader.get_variable_to_shape_map())
    assert not [name for name in names if "velocity" in name or "momentum" in name.replace("_momentum", "")]
    total = sum(
        int(np.prod(shape)) for name, shape in reader.get_variable_to_shape_map().items() if "OBJECT" not in name
    )
    assert total <= build(SMALL, 4, 32).count_params() + 100
