"""*Sweeps*: three pictures in three styles, and one on its way for three weights."""

from workshop import Workshop


def make(workshop: Workshop) -> None:
    """The first by the network that comes with cnnkit, the second by three blocks of VGG19."""
    workshop.bring(
        cat="images/free/chelsea.png",
        rocket="images/free/rocket.jpg",
        coffee="images/free/coffee.png",
        composition="images/style/composition_vii.jpg",
        wave="images/style/great_wave.jpg",
        night="images/style/starry_night.jpg",
    )
    workshop.bring_networks("vgg19-notop")
    workshop.run_command(
        "cnnkit sweep style-transfer cat.jpg rocket.jpg coffee.jpg --size 128 --pyramid 64 --iterations 50"
        " --style composition.jpg,wave.jpg,night.jpg --model default -o nine/"
    )
    workshop.run_command(
        "cnnkit sweep style-transfer cat.jpg --size 128 --iterations 80 --snapshots 20 --preset gatys-code"
        " --model vgg19-notop --style-layers 'block[1-3]_conv1' --content-layers block3_conv2"
        " --style wave.jpg --content-weight 0.001,1,100 -o weights/"
    )
    workshop.keep("three-by-three.jpg", "nine/sweep.png", 760)
    workshop.keep("snapshots.jpg", "weights/sweep.snapshots.png", 1000)
