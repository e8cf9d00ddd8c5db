"""Trains motionblocks-vae, the codec of motionblocks-wan; what it does stands in recipes/train_codec.py."""

from mounted_pack import mount_pack

if __name__ == "__main__":
    mount_pack()
    from pack.recipes.train_codec import main

    main()
