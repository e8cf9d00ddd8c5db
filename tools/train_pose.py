"""Trains motionblocks-wan-pose. The shipped weights name this file; what it does stands in recipes/train_pose.py."""

from mounted_pack import mount_pack

if __name__ == "__main__":
    mount_pack()
    from pack.recipes.train_pose import main

    main()
